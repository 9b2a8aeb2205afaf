"""Deletion, insertion, ABPC and Vision DiffMask's curves: the probability of the target while patches are replaced."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.masked_forward import Baseline, First, Said, replaced
from pipeline.metrics.metric import Directions, Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.quadrature import Spacing, check, quadrature


def follow(batch: MetricBatch, kind: Baseline, first: First, fractions: NDArray[np.float64]) -> dict[str, Said]:
    """What the network says of the images while patches are replaced in the order of each method: [B, K, S], by method.

    Args:
        fractions: of the patches, [S]; a fraction is rounded to whole patches.
    """
    numbers = np.rint(fractions * batch.network.anatomy.patches).astype(np.int64)
    masks = [replaced(maps, first, numbers) for maps in batch.maps.values()]
    said = batch.copies.said(kind, np.concatenate(masks, 2))
    parts = [np.split(each, len(masks), 2) for each in said]
    return {method: Said(*part) for method, *part in zip(batch.maps, *parts, strict=True)}


@dataclass(frozen=True)
class Curves(Metric):
    """Areas under the probability p of the map's class, over the part of the patches that is replaced.

    ``deletion`` – p while the most relevant are replaced first, by the mean colour. ``insertion`` – p while the most
    relevant are shown first, on a blurred picture. Both: Petsiuk et al., RISE, BMVC 2018, there with 224 pixels a
    step. ``abpc`` – area of the least relevant first − area of the most relevant first, mean colour: the area between
    the perturbation curves of Samek et al., TNNLS 2017, with the baseline of Leem & Seo, AGCAM, AAAI 2024, there with
    10 equal steps.

    The figures of a constant map are those of its patches in reading order; its ``abpc`` is 0.

    Options:
        steps, spacing: see ``quadrature``.
    """

    figures: ClassVar[Directions] = {"deletion": "lower", "insertion": "higher", "abpc": "higher"}

    steps: int = 4
    spacing: Spacing = "gauss"

    def __post_init__(self) -> None:
        check("curves", self.steps, self.spacing)

    def cost(self, methods: int, depth: int) -> MetricCost:
        return MetricCost(3 * (self.steps - 1) * methods + 3)

    def of(self, batch: MetricBatch) -> Iterator[MetricValue]:
        places, weights = quadrature(self.steps, self.spacing)
        gone = follow(batch, "mean", "most", places)
        left = follow(batch, "mean", "least", places)
        shown = follow(batch, "blur", "least", places)
        for method in batch.maps:
            yield MetricValue(method, "deletion", gone[method].probability @ weights)
            yield MetricValue(method, "insertion", shown[method].probability @ weights)
            yield MetricValue(method, "abpc", (left[method].probability - gone[method].probability) @ weights)


@dataclass(frozen=True)
class DiffMaskCurves(Metric):
    """Vision DiffMask's perturbation curves: patches become noise, the most or the least relevant ones first.

    ``noise_most``, ``noise_least`` – area under p of the map's class; ``noise_nll_most``, ``noise_nll_least`` – under
    −log p. The authors replace 7 of 196 patches a step, which is 28 equal steps, and sum by unit spacing: theirs are
    28 times these. Their noise is uniform in [−1, 1] after a normalisation to that range, and the same for all
    images; here it is uniform in [0, 1) before normalising, which is that, and from key and seed.

    Source: Nalmpantis et al., Vision DiffMask, CVPR workshops 2023, and its published notebook.

    Options:
        steps, spacing: see ``quadrature``.
    """

    figures: ClassVar[Directions] = {
        "noise_most": "lower",
        "noise_least": "higher",
        "noise_nll_most": "higher",
        "noise_nll_least": "lower",
    }

    steps: int = 4
    spacing: Spacing = "gauss"

    def __post_init__(self) -> None:
        check("diffmask_curves", self.steps, self.spacing)

    def cost(self, methods: int, depth: int) -> MetricCost:
        return MetricCost(2 * (self.steps - 1) * methods + 2)

    def of(self, batch: MetricBatch) -> Iterator[MetricValue]:
        places, weights = quadrature(self.steps, self.spacing)
        orders: tuple[First, First] = ("most", "least")
        for first in orders:
            for method, said in follow(batch, "noise", first, places).items():
                yield MetricValue(method, f"noise_{first}", said.probability @ weights)
                yield MetricValue(method, f"noise_nll_{first}", -said.log_probability @ weights)
