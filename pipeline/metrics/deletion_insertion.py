"""Deletion, insertion and ABPC: areas under the probability of the class while patches are replaced."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pipeline.metrics.metric import Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.quadrature import Spacing, check_quadrature, quadrature
from schemas.metrics import DIRECTIONS, Directions


@dataclass(frozen=True)
class DeletionInsertion(Metric):
    """Areas under the probability p of the map's class, over the fraction of replaced patches.

    ``deletion`` – p while the most relevant patches are replaced first, by the mean color. ``insertion`` – p while the
    most relevant patches are revealed first, on a blurred image. Both: Petsiuk et al., RISE, BMVC 2018, there with 224
    pixels a step. ``abpc`` – area with the least relevant first − area with the most relevant first, mean color: the
    area between the perturbation curves of Samek et al., TNNLS 2017, with the baseline of Leem & Seo, AGCAM, AAAI 2024,
    there with 10 equal steps.

    A constant map has the values of its patches in reading order; its ``abpc`` is 0.

    Options:
        steps, spacing: see ``quadrature``.
    """

    directions: ClassVar[Directions] = DIRECTIONS["deletion_insertion"]

    steps: int = 4
    spacing: Spacing = "gauss"

    def __post_init__(self) -> None:
        check_quadrature("deletion_insertion", self.steps, self.spacing)

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(3 * (self.steps - 1) * methods + 3)

    def compute(self, batch: MetricBatch) -> Iterator[MetricValue]:
        nodes, weights = quadrature(self.steps, self.spacing)
        most_first = batch.predict_removal("mean", "most", nodes)
        least_first = batch.predict_removal("mean", "least", nodes)
        inserted = batch.predict_removal("blur", "least", nodes)
        for method in batch.maps:
            most, least = most_first[method].probability, least_first[method].probability
            yield MetricValue(method, "deletion", most @ weights)
            yield MetricValue(method, "insertion", inserted[method].probability @ weights)
            yield MetricValue(method, "abpc", (least - most) @ weights)
