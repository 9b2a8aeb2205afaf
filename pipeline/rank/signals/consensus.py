"""Consensus: whether a map has the patches high that the maps of other methods have high."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.metrics.metric import MetricBatch, MetricCost
from pipeline.rank.signal import Signal, SignalValue
from pipeline.utils.ranks import center_ranks, correlate
from schemas.scores import is_control


@dataclass(frozen=True)
class Consensus(Signal):
    """Correlation of the ranks of a map with the mean ranks of the maps of other methods, in [−1, 1]; 0 if constant.

    The others are the methods that are no controls and have another base name, each base name with the same weight, so
    that four kernels of one method do not agree with one another. What methods find is more alike than their errors,
    but methods of one family share errors, too.
    """

    name = "consensus"
    title = "rank correlation with the mean of the other methods"
    checked = "whole images"

    def cost(self, methods: int) -> MetricCost:
        return MetricCost()

    def compute(self, batch: MetricBatch) -> Iterator[SignalValue]:
        ranks = {method: center_ranks(maps[:, 0].reshape(len(maps), -1)) for method, maps in batch.maps.items()}
        base_names = {method: batch.model.methods[method].base_name for method in ranks}
        own = [method for method in ranks if not is_control(method)]
        means = {
            base_name: np.mean([ranks[method] for method in own if base_names[method] == base_name], axis=0)
            for base_name in dict.fromkeys(base_names[method] for method in own)
        }
        for method, values in ranks.items():
            others = [mean for base_name, mean in means.items() if base_name != base_names[method]]
            undefined = np.full(len(values), np.nan)
            yield SignalValue(method, correlate(values, np.sum(others, axis=0)) if others else undefined)
