"""Correlation of maps, float64, over their last axis."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def pearson(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pearson's r of values [..., N]: float64 [...], NaN where either is constant."""
    a, b = (np.asarray(each, np.float64) for each in (first, second))
    constant = (np.ptp(a, -1) == 0) | (np.ptp(b, -1) == 0)  # rounding of the mean may leave a trace of variance
    a, b = (each - each.mean(-1, keepdims=True) for each in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.where(constant, np.nan, r)


def spearman(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Spearman's ρ, Pearson's r of the ranks, of which equal values share the mean: float64 [...], NaN as there."""
    return pearson(rankdata(first, axis=-1), rankdata(second, axis=-1))


def similarity(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Spearman's ρ of |a| and |b|, maps [..., h, w]: 1 where they are equal, 0 where one is constant."""
    a, b = (np.abs(each).reshape(*each.shape[:-2], -1) for each in (first, second))
    return np.where((a == b).all(-1), 1.0, np.nan_to_num(spearman(a, b)))
