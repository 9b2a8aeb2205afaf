"""Positive and negative perturbation, as Chefer et al. measure them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.metrics.deletion_insertion import follow
from pipeline.metrics.masked_forward import First
from pipeline.metrics.metric import Directions, Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.quadrature import Spacing, check, quadrature

_ORDERS: dict[str, First] = {"positive": "most", "negative": "least"}
_LOW, _HIGH = 0.1, 0.9


@dataclass(frozen=True)
class Perturbation(Metric):
    """Area under the accuracy while 10 to 90 % of the patches become black, over its width.

    ``positive`` – the most relevant first, ``negative`` – the least. Of one image the accuracy is 1 where its label is
    the top class, else 0, whichever class the map is of; without a label there is none.

    Patches are black before normalising. The authors rank pixels of the enlarged map, here patches are ranked; they
    take 10, 20, …, 90 %, which is ``steps=8, spacing="equal"``.

    Source: Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021.

    Options:
        steps, spacing: see ``quadrature``.
    """

    figures: ClassVar[Directions] = {"positive": "lower", "negative": "higher"}

    steps: int = 3
    spacing: Spacing = "gauss"

    def __post_init__(self) -> None:
        check("perturbation", self.steps, self.spacing)

    def cost(self, methods: int, depth: int) -> MetricCost:
        return MetricCost(2 * (self.steps + 1) * methods)

    def of(self, batch: MetricBatch) -> Iterator[MetricValue]:
        places, weights = quadrature(self.steps, self.spacing)
        labels = batch.labels[:, None]
        for name, first in _ORDERS.items():
            for method, said in follow(batch, "black", first, _LOW + (_HIGH - _LOW) * places).items():
                right = (said.top == labels[..., None]) @ weights
                yield MetricValue(method, name, np.where(labels < 0, np.nan, right))
