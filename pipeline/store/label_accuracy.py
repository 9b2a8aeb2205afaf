"""Accuracy of the network on the labels of an atlas, and whether another order of classes explains them better."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from pipeline.store.atlas import Atlas

_SIGNIFICANCE = 1e-4
"""Probability, over all shifts, with which chance may look like a shift of the class ids."""
_CONFIDENCE = 0.999
"""Of the upper limit of the accuracy that is compared with chance."""
_FEWEST_CLASSES = 3
"""Fewest labels that must be explained by another order; fewer may be confusions of the network."""


@dataclass(frozen=True)
class LabelAccuracy:
    """Predictions of the network against the labels of an atlas.

    Attributes:
        labeled: number of images with maps whose label is a class of the network.
        top1, top5: number of these whose label has the highest, or one of the five highest logits.
        fault: why the labels may belong to another order of classes, or None.
    """

    labeled: int
    top1: int
    top5: int
    fault: str | None


def measure_label_accuracy(atlas: Atlas) -> LabelAccuracy | None:
    """Count how often the network predicts the label; None if no image has one."""
    samples = atlas.samples_with_maps(["label", "prediction", "label_rank"])
    samples = samples.filter(pc.and_(pc.is_valid(samples["label"]), pc.is_valid(samples["label_rank"])))
    if not len(samples):
        return None
    labels, predictions, ranks = (samples[name].to_numpy() for name in ("label", "prediction", "label_rank"))
    fault = find_label_fault(labels, predictions, atlas.run.model.classes)
    return LabelAccuracy(len(samples), int((ranks == 0).sum()), int((ranks < 5).sum()), fault)


def find_label_fault(labels: NDArray[np.integer], predictions: NDArray[np.integer], classes: int) -> str | None:
    """Return why labels may belong to another order of classes than that of the network, or None.

    Looked for, in this order:

    - a cyclic shift of the class ids, such as labels from 1: more predictions agree with it than with the labels, by
      four standard deviations, and than chance explains for any shift, and nearly as many as with any other order;
    - another order: each label is mapped to the prediction that is most frequent in one half of the images, and the
      mapping is right at least twice as often in the other half as the labels are, by four standard deviations;
    - accuracy at chance: its upper limit is below 5 %, or less than half and five points above chance.

    Args:
        labels: int [n], in [0, classes).
        predictions: int [n], of the same images.
        classes: number of classes of the network.
    """
    count, hits = len(labels), int((labels == predictions).sum())
    shifted = np.bincount((predictions - labels) % classes, minlength=classes)
    shift = int(shifted.argmax())
    by_shift = int(shifted[shift])
    explained = np.unique(labels[(predictions - labels) % classes == shift])
    by_order, reordered = _cross_validated_hits(labels, predictions, classes)
    chance = classes * float(betainc(by_shift, count - by_shift + 1, 1 / classes))  # of so many hits or more
    is_shift = _is_far_more(by_shift, hits) and chance < _SIGNIFICANCE and by_shift >= 0.8 * by_order
    if shift and is_shift and len(explained) >= _FEWEST_CLASSES:
        offset = shift if shift <= classes // 2 else shift - classes
        return (
            f"{by_shift:,} of {count:,} predictions are the label {offset:+d}, {hits:,} are the label itself; "
            "give the shards class ids of the network, from 0"
        )
    if _is_far_more(by_order, hits) and by_order >= 2 * hits and reordered >= _FEWEST_CLASSES:
        return (
            f"another order of classes explains {by_order:,} of {count:,} labels, the order of the network {hits:,}; "
            "give the shards class ids in the order of the network"
        )
    upper = float(betaincinv(hits + 1, count - hits, _CONFIDENCE)) if hits < count else 1.0
    if upper < max(min(1.5 / classes, 1 / classes + 0.05), 0.05):
        return (
            f"{hits:,} of {count:,} predictions are the label, hardly more than by chance; check that the class ids of "
            "the shards are those of the network"
        )
    return None


def _is_far_more(many: int, few: int) -> bool:
    return many - few > 4 * math.sqrt(many + few)


def _cross_validated_hits(
    labels: NDArray[np.integer], predictions: NDArray[np.integer], classes: int
) -> tuple[int, int]:
    """Return how often the best mapping of labels in one half is right in the other, and how many labels it moves."""
    hits, moved = 0, set[int]()
    by_label = np.argsort(labels, kind="stable")
    halves = np.empty(len(labels), bool)
    halves[by_label] = np.arange(len(labels)) % 2 == 0  # every other image of each label
    for half in (halves, ~halves):
        pairs, counts = np.unique(labels[half].astype(np.int64) * classes + predictions[half], return_counts=True)
        order = np.lexsort((pairs, counts))  # the last one of a label is its most frequent prediction
        mapping = np.full(classes, -1)
        mapping[pairs[order] // classes] = pairs[order] % classes
        right = mapping[labels[~half]] == predictions[~half]
        hits += int(right.sum())
        explained = np.unique(labels[~half][right])
        moved.update(explained[mapping[explained] != explained].tolist())
    return hits, len(moved)
