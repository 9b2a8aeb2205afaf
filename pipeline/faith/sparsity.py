"""How much of a map is how large: no question of the network."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.faith.measure import Batch, Cost, Figures, Measure, Value

_SHIFT = 1e-7
"""Added to maps whose least value is 0, so that of a map of zeros all is equal (Englebert et al., TiS, 2023)."""


def complexity(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """‖m‖₁ / N of maps in [0, 1], [..., h, w]: in [0, 1] (Poppi et al., CVPR workshops 2021)."""
    return maps.mean((-2, -1), dtype=np.float64)


def gini(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Gini index of maps [..., h, w]: 0 is uniform, 1 − 1/N is one patch.

    G = Σᵢ (2i − N − 1) aᵢ / (N Σ aᵢ), with a in increasing order, its least value shifted to 1e−7.
    Source: Chalasani et al., Concise Explanations of Neural Networks, ICML 2020.
    """
    values = np.sort(_positive(maps), -1)
    number = values.shape[-1]
    weights = 2 * np.arange(1, number + 1) - number - 1
    return (weights * values).sum(-1) / (number * values.sum(-1))


def entropy(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """−Σ p log p of each patch's share p of a map [..., h, w], in nats: from 0, one patch, to log N, uniform.

    Shares are of the map with its least value shifted to 1e−7. Source: Bhatt et al., Evaluating and Aggregating
    Feature-based Model Explanations, IJCAI 2020, who call it complexity.
    """
    values = _positive(maps)
    share = values / values.sum(-1, keepdims=True)
    return -(share * np.log(share)).sum(-1)


def _positive(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    values = maps.reshape(*maps.shape[:-2], -1).astype(np.float64)
    return values - values.min(-1, keepdims=True) + _SHIFT


@dataclass(frozen=True)
class Sparsity(Measure):
    """``gini`` and ``entropy`` of a map; ``complexity`` is a part of ADCC, and stands there."""

    figures: ClassVar[Figures] = {"gini": "higher", "entropy": "lower"}

    def cost(self, methods: int, depth: int) -> Cost:
        return Cost()

    def of(self, batch: Batch) -> Iterator[Value]:
        for method, maps in batch.maps.items():
            yield Value(method, "gini", gini(maps))
            yield Value(method, "entropy", entropy(maps))
