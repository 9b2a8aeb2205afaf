"""Class difference: whether the map of another class is another map."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.explain import Network
from pipeline.metrics.metric import MetricBatch, MetricCost
from pipeline.metrics.random_logit import sample_other_classes
from pipeline.rank.signal import Signal, SignalValue

_TOLERANCE = 0.01
"""Of maps in [0, 1], which are stored in half precision and may come from another machine."""


@dataclass(frozen=True)
class ClassDifference(Signal):
    """1 where the map of another class, sampled by the key of the image, differs by over 0.01 of its range, else 0.

    Undefined for methods whose maps do not depend on the class by their definition, and for constant maps.
    """

    name = "class_difference"
    title = "share of the images whose map of another class is another map"
    checked = "whole images"
    is_check = True

    def is_defined(self, anatomy: Network) -> bool:
        return anatomy.classes > 1

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(0, methods)

    def compute(self, batch: MetricBatch) -> Iterator[SignalValue]:
        model = batch.model
        names = [method for method in batch.maps if model.methods[method].class_specific]
        if not names:
            return
        others = sample_other_classes(batch.class_ids, model.anatomy.classes, batch.keys, batch.seed)
        other_maps = model.explain(batch.images, others, batch.keys, names)
        for method in names:
            first, second = (_scale(maps[:, 0]) for maps in (batch.maps[method], other_maps[method].cpu().numpy()))
            differs = (np.abs(first - second).max((1, 2)) > _TOLERANCE).astype(np.float64)
            constant = (np.ptp(first, axis=(1, 2)) == 0) & (np.ptp(second, axis=(1, 2)) == 0)
            yield SignalValue(method, np.where(constant, np.nan, differs))


def _scale(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scale maps [B, h, w] to [0, 1]; constant maps and values that are not finite become 0."""
    values = np.nan_to_num(maps.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
    return np.divide(values - low, high - low, out=np.zeros_like(values), where=high > low)
