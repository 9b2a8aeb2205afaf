"""Positive and negative perturbation, as Chefer et al. measure them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.faith.curves import area, check_steps, follow, fractions
from pipeline.faith.measure import Batch, Cost, Figures, Measure, Value
from pipeline.faith.perturb import First

_ORDERS: dict[str, First] = {"positive": "most", "negative": "least"}


@dataclass(frozen=True)
class Perturbation(Measure):
    """Area under the accuracy while patches become black, the most relevant first or the least.

    ``positive`` – the most relevant first, ``negative`` – the least. Of one image the accuracy is 1 where its label is
    the top class, else 0, whichever class the map is of; without a label there is none. The area is that between
    10 and 90 %, over its width (with ``steps`` = 10): the whole and the black picture are left out.

    Patches are black before normalising. The authors rank pixels of the enlarged map, here patches are ranked.

    Source: Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021.

    Options:
        steps: of equal size, as far as patches allow.
    """

    figures: ClassVar[Figures] = {"positive": "lower", "negative": "higher"}

    steps: int = 10

    def __post_init__(self) -> None:
        check_steps("perturbation", self.steps, 3)

    def cost(self, methods: int, depth: int) -> Cost:
        return Cost(2 * (self.steps - 1) * methods + 2)

    def of(self, batch: Batch) -> Iterator[Value]:
        x = fractions(self.steps, batch.network.anatomy.patches)[1:-1]
        labels = batch.labels[:, None]
        for method in batch.maps:
            for name, first in _ORDERS.items():
                top = follow(batch, method, "black", first, self.steps).top[..., 1:-1]
                values = area(x, top == labels[..., None])
                yield Value(method, name, np.where(labels < 0, np.nan, values))
