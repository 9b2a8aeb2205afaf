"""Poisson bootstrap: weights of the replicates and percentile intervals."""

import numpy as np
from numpy.typing import NDArray

REPLICATES = 1000


def poisson_weights(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return how often each replicate contains each item: float [REPLICATES, count].

    An item occurs 0, 1, 2 … times, by a Poisson distribution of mean 1, whatever the number of items. So sums can be
    updated item by item.

    Args:
        rng: source of the random numbers.
        count: number of items.
    """
    return rng.poisson(1, (REPLICATES, count)).astype(np.float64)


def percentile_interval(replicates: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the 2.5 % and 97.5 % percentiles of the finite values; None if there are none."""
    finite = replicates[np.isfinite(replicates)]  # a replicate of few images may be undefined
    if not len(finite):
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)
