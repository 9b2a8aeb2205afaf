"""Contrast: whether a map shows anything at all."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.metrics.metric import MetricBatch, MetricCost
from pipeline.rank.signal import Signal, SignalValue


@dataclass(frozen=True)
class Contrast(Signal):
    """1 where a map is finite and not constant, else 0; maps that are not are stored as 0 everywhere."""

    name = "contrast"
    title = "share of the maps that are finite and not constant"
    checked = "whole images"
    is_check = True

    def cost(self, methods: int) -> MetricCost:
        return MetricCost()

    def compute(self, batch: MetricBatch) -> Iterator[SignalValue]:
        for method, maps in batch.maps.items():
            yield SignalValue(method, (np.ptp(maps[:, 0], axis=(1, 2)) > 0).astype(np.float64))
