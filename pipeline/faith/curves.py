"""Deletion, insertion, ABPC and Vision DiffMask's curves: the probability of the target while patches are replaced."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid

from pipeline.faith.measure import Batch, Cost, Figures, Measure, Value
from pipeline.faith.perturb import Baseline, First, Said, counts, replaced
from schemas.errors import UsageError


def area(fractions: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    """Area under curves by trapezoids, over its width: the mean height, float64 [...].

    Args:
        fractions: [S], increasing.
        values: [..., S].
    """
    x = np.asarray(fractions, np.float64)
    return np.asarray(trapezoid(np.asarray(values, np.float64), x, axis=-1) / (x[-1] - x[0]))


def fractions(steps: int, patches: int) -> NDArray[np.float64]:
    """Which part of the patches is replaced at each step, [steps + 1], from 0 to 1."""
    return counts(steps, patches) / patches


def check_steps(name: str, steps: int, least: int) -> None:
    """Refuse too few steps.

    Raises:
        UsageError: there are.
    """
    if steps < least:
        raise UsageError(f"{name}: steps is {steps}; it must be at least {least}")


def follow(batch: Batch, method: str, kind: Baseline, first: First, steps: int) -> Said:
    """What the network says of each map's image while its patches are replaced, from none to all: [B, K, steps + 1]."""
    maps = batch.maps[method]
    return batch.copies.said(kind, replaced(maps, first, counts(steps, batch.network.anatomy.patches)))


@dataclass(frozen=True)
class Curves(Measure):
    """Areas under the probability p of the map's class, over the part of the patches that is replaced.

    ``deletion`` – p while the most relevant are replaced first, by the mean colour. ``insertion`` – p while the most
    relevant are shown first, on a blurred picture. Both: Petsiuk et al., RISE, BMVC 2018, there with 224 pixels a
    step. ``abpc`` – ∫ p, least relevant first, − ∫ p, most relevant first, mean colour: the area between the
    perturbation curves of Samek et al., TNNLS 2017, with the baseline of Leem & Seo, AGCAM, AAAI 2024.

    The figures of a constant map are those of its patches in reading order; its ``abpc`` is 0.

    Options:
        steps: of equal size, as far as patches allow.
    """

    figures: ClassVar[Figures] = {"deletion": "lower", "insertion": "higher", "abpc": "higher"}

    steps: int = 10

    def __post_init__(self) -> None:
        check_steps("curves", self.steps, 1)

    def cost(self, methods: int, depth: int) -> Cost:
        return Cost(3 * (self.steps - 1) * methods + 3)

    def of(self, batch: Batch) -> Iterator[Value]:
        x = fractions(self.steps, batch.network.anatomy.patches)
        for method in batch.maps:
            most = area(x, follow(batch, method, "mean", "most", self.steps).probability)
            least = area(x, follow(batch, method, "mean", "least", self.steps).probability)
            shown = area(x, follow(batch, method, "blur", "least", self.steps).probability)
            yield Value(method, "deletion", most)
            yield Value(method, "insertion", shown)
            yield Value(method, "abpc", least - most)


@dataclass(frozen=True)
class DiffMaskCurves(Measure):
    """Vision DiffMask's perturbation curves: patches become noise, the most or the least relevant ones first.

    ``noise_most``, ``noise_least`` – area under p of the map's class; ``noise_nll_most``, ``noise_nll_least`` – under
    −log p. The authors replace 7 of 196 patches a step, which is ``steps=28``, and sum by unit spacing: theirs are
    28 times these. Their noise is uniform in [−1, 1] after a normalisation to that range, and the same for all
    images; here it is uniform in [0, 1) before normalising, which is that, and from key and seed.

    Source: Nalmpantis et al., Vision DiffMask, CVPR workshops 2023, and its published notebook.

    Options:
        steps: of equal size, as far as patches allow.
    """

    figures: ClassVar[Figures] = {
        "noise_most": "lower",
        "noise_least": "higher",
        "noise_nll_most": "higher",
        "noise_nll_least": "lower",
    }

    steps: int = 10

    def __post_init__(self) -> None:
        check_steps("diffmask_curves", self.steps, 1)

    def cost(self, methods: int, depth: int) -> Cost:
        return Cost(2 * (self.steps - 1) * methods + 2)

    def of(self, batch: Batch) -> Iterator[Value]:
        x = fractions(self.steps, batch.network.anatomy.patches)
        orders: tuple[First, First] = ("most", "least")
        for method in batch.maps:
            for first in orders:
                said = follow(batch, method, "noise", first, self.steps)
                yield Value(method, f"noise_{first}", area(x, said.probability))
                yield Value(method, f"noise_nll_{first}", area(x, -said.log_probability))
