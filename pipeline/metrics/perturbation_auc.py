"""Positive and negative perturbation of Chefer et al."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.metrics.masked_forward import RemovalOrder
from pipeline.metrics.metric import Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.quadrature import Spacing, check_quadrature, quadrature
from schemas.metrics import DIRECTIONS, Directions

_ORDERS: dict[str, RemovalOrder] = {"positive": "most", "negative": "least"}
_LOW, _HIGH = 0.1, 0.9


@dataclass(frozen=True)
class PerturbationAUC(Metric):
    """Area under the accuracy while 10 to 90 % of the patches become black, over its width.

    ``positive`` – the most relevant first, ``negative`` – the least. The accuracy of one image is 1 where its label is
    the top class, else 0, whatever class the map explains; it is undefined without a label.

    Patches are black before normalization. The authors rank pixels of the upsampled map, here patches are ranked; they
    take 10, 20, …, 90 %, which is ``steps=8, spacing="equal"``.

    Source: Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021.

    Options:
        steps, spacing: see ``quadrature``.
    """

    directions: ClassVar[Directions] = DIRECTIONS["perturbation_auc"]

    steps: int = 3
    spacing: Spacing = "gauss"

    def __post_init__(self) -> None:
        check_quadrature("perturbation_auc", self.steps, self.spacing)

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(2 * (self.steps + 1) * methods)

    def compute(self, batch: MetricBatch) -> Iterator[MetricValue]:
        nodes, weights = quadrature(self.steps, self.spacing)
        labels = batch.labels[:, None]
        for name, order in _ORDERS.items():
            for method, predictions in batch.predict_removal("black", order, _LOW + (_HIGH - _LOW) * nodes).items():
                accuracy = (predictions.top == labels[..., None]) @ weights
                yield MetricValue(method, name, np.where(labels < 0, np.nan, accuracy))
