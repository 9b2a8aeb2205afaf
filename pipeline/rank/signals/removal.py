"""Removal: whether the network loses the class without the patches that a map has high, and keeps it with them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.metrics.metric import MetricBatch, MetricCost
from pipeline.metrics.quadrature import quadrature
from pipeline.rank.signal import Signal, SignalValue


@dataclass(frozen=True)
class Removal(Signal):
    """Area under the probability with the least relevant patches removed first, minus most relevant first.

    Removed patches have the mean color. This is ``abpc`` of ``DeletionInsertion`` (Samek et al., TNNLS 2017), in
    [−1, 1]. The network must recognise the image without the less relevant half of its patches.

    Options:
        steps: see ``quadrature``.
    """

    name = "removal"
    title = "loss of probability without the most relevant patches, minus that without the least relevant"
    checked = "an image without the less relevant half of its patches"

    steps: int = 4

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(2 * (self.steps - 1) * methods + 2)

    def compute(self, batch: MetricBatch) -> Iterator[SignalValue]:
        nodes, weights = quadrature(self.steps, "gauss")
        most = batch.predict_removal("mean", "most", nodes)
        least = batch.predict_removal("mean", "least", nodes)
        half = int(np.searchsorted(nodes, 0.5 - 1e-9))
        for method in batch.maps:
            values = (least[method].probability - most[method].probability) @ weights
            yield SignalValue(method, values[:, 0], least[method].top[:, 0, half])
