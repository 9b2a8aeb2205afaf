"""Contrast and spread: whether a map shows anything at all, and more than a few single patches."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.metric import MetricBatch, MetricCost
from pipeline.rank.signal import Signal, SignalValue
from pipeline.utils.isolated import is_isolated


class MapCheck(Signal):
    """A check that looks at a map alone: 1 where it passes, else 0."""

    checked = "whole images"
    is_check = True

    @abstractmethod
    def passes(self, maps: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which of the maps [B, h, w] pass: bool [B]."""

    def cost(self, methods: int) -> MetricCost:
        return MetricCost()

    def compute(self, batch: MetricBatch) -> Iterator[SignalValue]:
        for method, maps in batch.maps.items():
            yield SignalValue(method, self.passes(maps[:, 0]).astype(np.float64))


@dataclass(frozen=True)
class Contrast(MapCheck):
    """1 where a map is finite and not constant, else 0; maps that are not are stored as 0 everywhere."""

    name = "contrast"
    title = "share of the maps that are finite and not constant"

    def passes(self, maps: NDArray[np.float64]) -> NDArray[np.bool_]:
        varies: NDArray[np.bool_] = np.ptp(maps, axis=(1, 2)) > 0
        return varies


@dataclass(frozen=True)
class Spread(MapCheck):
    """0 where the mass of a map sits in a few isolated patches, as artefact tokens make them, else 1."""

    name = "spread"
    title = "share of the maps that show more than a few single patches"

    def passes(self, maps: NDArray[np.float64]) -> NDArray[np.bool_]:
        return ~is_isolated(maps)
