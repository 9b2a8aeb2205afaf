"""Grid pointing: whether the map of a class lies on its image in a mosaic of images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.metrics.grid_pointing import GridPointing, group_by_class
from pipeline.metrics.metric import MetricBatch, MetricCost
from pipeline.rank.signal import NONE_SEEN, NOT_TRIED, Signal, SignalValue
from schemas.scores import is_control


@dataclass(frozen=True)
class Pointing(Signal):
    """Share of the positive relevance of a class on its own cell of a mosaic of 2 × 2 classes: see ``GridPointing``.

    Undefined for methods whose maps do not depend on the class: whatever they show, their mean is 1/4.
    """

    name = "grid_pointing"
    title = "share of the relevance on the cell of the class in a mosaic of four images"
    checked = "the four images of a mosaic"

    def cost(self, methods: int) -> MetricCost:
        return GridPointing().cost(methods)

    def compute(self, batch: MetricBatch) -> Iterator[SignalValue]:
        metric, class_ids = GridPointing(), batch.class_ids[:, 0]
        values = {value.method: value.values[:, 0] for value in metric.compute(batch)}
        is_seen = np.isfinite(np.stack(list(values.values()))).any(0)
        seen = np.where(is_seen, class_ids, NONE_SEEN)
        left_over = np.ones(len(class_ids), bool)
        left_over[[image for group in group_by_class(class_ids.tolist(), metric.side**2) for image in group]] = False
        seen[left_over] = NOT_TRIED
        for method, shares in values.items():
            if is_control(method) or batch.model.methods[method].class_specific:
                yield SignalValue(method, shares, seen)
