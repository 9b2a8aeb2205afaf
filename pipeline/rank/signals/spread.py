"""Spread: whether a map shows more than a few single patches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.metrics.metric import MetricBatch, MetricCost
from pipeline.rank.signal import Signal, SignalValue
from pipeline.utils.isolated import is_isolated


@dataclass(frozen=True)
class Spread(Signal):
    """0 where the mass of a map sits in a few isolated patches, as artefact tokens make them, else 1."""

    name = "spread"
    title = "share of the maps that show more than a few single patches"
    checked = "whole images"
    is_check = True

    def cost(self, methods: int) -> MetricCost:
        return MetricCost()

    def compute(self, batch: MetricBatch) -> Iterator[SignalValue]:
        for method, maps in batch.maps.items():
            yield SignalValue(method, (~is_isolated(maps[:, 0])).astype(np.float64))
