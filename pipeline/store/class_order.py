"""Whether labels belong to another order of classes than that of the network, judged by its predictions."""

import math

import numpy as np
from numpy.typing import NDArray

_SIGNIFICANCE = 1e-4
"""Probability with which chance may look like a shift of the class ids, over all shifts, or like an accuracy."""
_CONFIDENCE = 0.999
"""Of the upper limit of the accuracy that is compared with chance."""
_FEWEST_CLASSES = 3
"""Fewest labels that must be explained by another order; fewer may be confusions of the network."""
_LEAST_SHARE = 0.1
"""Least share of the labels that another order explains; less may be confusions of a network that is mostly wrong."""
_ILSVRC_CLASSES = 1000
_DEVELOPMENT_KIT = np.array([
    278, 212, 250, 193, 217, 147, 387, 285, 350, 283, 286, 353, 334, 150, 249, 362, 246, 166, 218, 172, 177, 148, 357,
    386, 178, 202, 194, 271, 229, 290, 175, 163, 191, 276, 299, 197, 380, 364, 339, 359, 251, 165, 157, 361, 179, 268,
    233, 356, 266, 264, 225, 349, 335, 375, 282, 204, 352, 272, 187, 256, 294, 277, 174, 234,
])  # fmt: skip
"""Class id of networks, by sorted WordNet ids, of the first 64 ``ILSVRC2012_ID`` (from 1) in ``meta.mat`` of the
development kit of ILSVRC 2012."""

Ints = NDArray[np.integer]


def find_label_fault(labels: Ints, predictions: Ints, classes: int) -> str | None:
    """Return why labels may belong to another order of classes than that of the network, or None.

    Looked for, in this order, each where far more predictions agree with it than with the labels (by four standard
    deviations), and where it explains a tenth of the labels, of three classes or more:

    - the ids of the development kit of ILSVRC 2012, if the network has its thousand classes;
    - a cyclic shift of the class ids, such as labels from 1: more than chance explains for any shift, and nearly as
      many as with any other order;
    - another order: each label is mapped to a class of its own, the one predicted most often in one half of the images,
      and the mapping is right at least twice as often in the other half as the labels are;
    - accuracy at chance: its upper limit is less than half and five points above chance, or below 5 % while chance may
      well be as right.

    Args:
        labels: int [n], in [0, classes).
        predictions: int [n], of the same images.
        classes: number of classes of the network.
    """
    count, hits = len(labels), int((labels == predictions).sum())
    advice = "give the shards class ids of the network, from 0"
    if classes == _ILSVRC_CLASSES and (found := _hits_of_development_kit(labels, predictions)):
        return (
            f"by the order of the development kit of ILSVRC 2012 {found[0]:,} of {found[1]:,} predictions are the "
            f"label, by that of the network {found[2]:,}; {advice}, as vitatlas pack imagenet does"
        )
    by_order, reordered = _cross_validated_hits(labels, predictions, classes)
    shift, by_shift = _most_frequent_shift(labels, predictions, classes)
    if shift and _explains(by_shift, hits, count) and by_shift >= 0.95 * by_order:
        return (
            f"{by_shift:,} of {count:,} predictions are the label {shift:+d}, {hits:,} are the label itself; {advice}"
        )
    if _explains(by_order, hits, count) and by_order >= 2 * hits and reordered >= _FEWEST_CLASSES:
        return (
            f"another order of classes explains {by_order:,} of {count:,} labels, the order of the network {hits:,}; "
            "give the shards class ids in the order of the network"
        )
    if _is_chance(hits, count, classes):
        return (
            f"{hits:,} of {count:,} predictions are the label, hardly more than by chance; check that the class ids of "
            "the shards are those of the network"
        )
    return None


def _explains(many: int, few: int, count: int) -> bool:
    """Return whether another order explains a good part of the labels, and far more than the order of the network."""
    return many >= _LEAST_SHARE * count and many - few > 4 * math.sqrt(many + few)


def _hits_of_development_kit(labels: Ints, predictions: Ints) -> tuple[int, int, int] | None:
    """Return how many predictions are the label by the development kit, of how many, and how many by the network."""
    for first in (1, 0):
        places = labels - first
        compared = (places >= 0) & (places < len(_DEVELOPMENT_KIT))
        expected = _DEVELOPMENT_KIT[places[compared]] == predictions[compared]
        hits, by_kit = int((labels == predictions)[compared].sum()), int(expected.sum())
        explained = len(np.unique(labels[compared][expected]))
        if explained >= _FEWEST_CLASSES and _explains(by_kit, hits, int(compared.sum())):
            return by_kit, int(compared.sum()), hits
    return None


def _most_frequent_shift(labels: Ints, predictions: Ints, classes: int) -> tuple[int, int]:
    """Return the shift of the class ids that most predictions agree with, and how many; 0 if chance may explain it."""
    from scipy.stats import binom  # takes half a second, and many commands need none

    shifts = (predictions - labels) % classes
    counts = np.bincount(shifts, minlength=classes)
    shift = int(counts.argmax())
    chance = classes * binom.sf(counts[shift] - 1, len(labels), 1 / classes)
    if chance >= _SIGNIFICANCE or len(np.unique(labels[shifts == shift])) < _FEWEST_CLASSES:
        return 0, 0
    return shift if shift <= classes // 2 else shift - classes, int(counts[shift])


def _cross_validated_hits(labels: Ints, predictions: Ints, classes: int) -> tuple[int, int]:
    """Return how often the best mapping of labels in one half is right in the other, and how many labels it moves."""
    hits, moved = 0, set[int]()
    by_label = np.argsort(labels, kind="stable")
    halves = np.empty(len(labels), bool)
    halves[by_label] = np.arange(len(labels)) % 2 == 0  # every other image of each label
    for half in (halves, ~halves):
        mapping = _best_mapping(labels[half], predictions[half], classes)
        right = mapping[labels[~half]] == predictions[~half]
        hits += int(right.sum())
        explained = np.unique(labels[~half][right])
        moved.update(explained[mapping[explained] != explained].tolist())
    return hits, len(moved)


def _best_mapping(labels: Ints, predictions: Ints, classes: int) -> NDArray[np.int64]:
    """Return a class for each label, int [classes]: the most frequent pairs first, each class once; −1 where none is.

    A network that is wrong most of the time predicts a few classes for everything. These explain but one label each.
    """
    pairs, counts = np.unique(labels.astype(np.int64) * classes + predictions, return_counts=True)
    mapping, is_taken = np.full(classes, -1), np.zeros(classes, bool)
    for pair in pairs[np.argsort(-counts, kind="stable")]:
        label, prediction = divmod(int(pair), classes)
        if mapping[label] < 0 and not is_taken[prediction]:
            mapping[label], is_taken[prediction] = prediction, True
    return mapping


def _is_chance(hits: int, count: int, classes: int) -> bool:
    from scipy.stats import beta, binom  # takes half a second, and many commands need none

    upper = float(beta.ppf(_CONFIDENCE, hits + 1, count - hits)) if hits < count else 1.0
    if upper < min(1.5 / classes, 1 / classes + 0.05):
        return True
    return upper < 0.05 and float(binom.sf(hits - 1, count, 1 / classes)) > _SIGNIFICANCE
