"""Accuracy of the network on the labels of an atlas, and whether another order of classes explains them better."""

from dataclasses import dataclass

import pyarrow.compute as pc

from pipeline.store.class_order import find_label_fault
from pipeline.store.map_reader import MapReader
from pipeline.utils.interval_text import format_interval


@dataclass(frozen=True)
class LabelAccuracy:
    """Predictions of the network against the labels of an atlas. Of several labels of an image the best one counts.

    Attributes:
        labeled: number of images with maps that have a label, or several, of classes of the network.
        top1, top5: number of these of which a label has the highest, or one of the five highest logits.
        several: number of these that have several labels.
        fault: why the labels may belong to another order of classes, or None; found from images with one label.
    """

    labeled: int
    top1: int
    top5: int
    several: int
    fault: str | None

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % interval of ``top1 / labeled``; see ``wilson_interval``."""
        return wilson_interval(self.top1, self.labeled)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """95 % interval of ``top5 / labeled``; see ``wilson_interval``."""
        return wilson_interval(self.top5, self.labeled)

    @property
    def summary(self) -> str:
        """One line: both accuracies in %, with their intervals."""
        parts = []
        for name, hits, (low, high) in (
            ("top-1", self.top1, self.top1_interval),
            ("top-5", self.top5, self.top5_interval),
        ):
            parts.append(f"{name} {100 * hits / self.labeled:.1f} % ({format_interval(100 * low, 100 * high)})")
        several = f"; of {self.several:,} with several labels the best one counts" if self.several else ""
        return (
            f"{', '.join(parts)} of {self.labeled:,} {'image' if self.labeled == 1 else 'images'} with a label{several}"
        )


def measure_label_accuracy(atlas: MapReader) -> LabelAccuracy | None:
    """Count how often the network predicts the label; None if no image has one."""
    samples = atlas.samples_with_maps(["label", "prediction", "label_rank"])
    samples = samples.filter(pc.is_valid(samples["label_rank"]))
    if not len(samples):
        return None
    ranks = samples["label_rank"].to_numpy()
    single = samples.filter(pc.is_valid(samples["label"]))
    labels, predictions = (single[name].to_numpy() for name in ("label", "prediction"))
    fault = find_label_fault(labels, predictions, atlas.run.model.classes) if len(single) else None
    top1, top5 = int((ranks == 0).sum()), int((ranks < 5).sum())
    return LabelAccuracy(len(samples), top1, top5, len(samples) - len(single), fault)


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share, in [0, 1] (Wilson, JASA 22, 1927); images count as independent.

    Args:
        hits: number of successes.
        count: number of trials, at least 1.
    """
    from scipy.stats import binomtest  # takes half a second, and is used once

    interval = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
