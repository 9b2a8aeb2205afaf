"""Perturbation curves of Vision DiffMask: patches are replaced by noise."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, get_args

from pipeline.metrics.masked_forward import RemovalOrder
from pipeline.metrics.metric import Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.quadrature import Spacing, check_quadrature, quadrature
from schemas.metrics import DIRECTIONS, Directions


@dataclass(frozen=True)
class DiffMaskCurves(Metric):
    """Areas under curves while patches become noise, the most or the least relevant ones first.

    ``noise_most``, ``noise_least`` – area under p of the map's class; ``noise_nll_most``, ``noise_nll_least`` – under
    −log p. The authors replace 7 of 196 patches a step, which is 28 equal steps, and sum with unit spacing: their
    values are 28 times these. Their noise is uniform in [−1, 1] after normalization to that range, and the same for all
    images; here it is uniform in [0, 1) before normalization, which is the same range, and depends on key and seed.

    Source: Nalmpantis et al., Vision DiffMask, CVPR workshops 2023, and its published notebook.

    Options:
        steps, spacing: see ``quadrature``.
    """

    directions: ClassVar[Directions] = DIRECTIONS["diffmask_curves"]

    steps: int = 4
    spacing: Spacing = "gauss"

    def __post_init__(self) -> None:
        check_quadrature("diffmask_curves", self.steps, self.spacing)

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(2 * (self.steps - 1) * methods + 2)

    def compute(self, batch: MetricBatch) -> Iterator[MetricValue]:
        nodes, weights = quadrature(self.steps, self.spacing)
        for order in get_args(RemovalOrder):
            for method, predictions in batch.predict_removal("noise", order, nodes).items():
                yield MetricValue(method, f"noise_{order}", predictions.probability @ weights)
                yield MetricValue(method, f"noise_nll_{order}", -predictions.log_probability @ weights)
