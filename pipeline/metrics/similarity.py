"""Similarity of maps: Pearson's and Spearman's correlation, in float64."""

import numpy as np
from numpy.typing import NDArray

from pipeline.utils.ranks import mean_ranks


def pearson(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return Pearson's r over the last axis: float64 [...], NaN where either is constant.

    Args:
        first: values [..., N].
        second: values [..., N].
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    constant = (np.ptp(a, -1) == 0) | (np.ptp(b, -1) == 0)  # rounding of the mean may leave a trace of variance
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.where(constant, np.nan, r)


def spearman(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return Spearman's ρ over the last axis: float64 [...], NaN where either is constant.

    It is Pearson's r of the ranks; equal values share their mean rank.

    Args:
        first: values [..., N].
        second: values [..., N].
    """
    return pearson(mean_ranks(first), mean_ranks(second))


def abs_spearman(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return Spearman's ρ of |a| and |b|: float64 [...], 1 where they are equal, 0 where one is constant.

    Args:
        first: a, maps [..., h, w].
        second: b, maps [..., h, w].
    """
    a, b = (np.abs(maps).reshape(*maps.shape[:-2], -1) for maps in (first, second))
    return np.where((a == b).all(-1), 1.0, np.nan_to_num(spearman(a, b)))
