"""Ranks of values. SciPy has the same, in a package whose import takes longer than most commands."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def mean_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return the ranks over the last axis, from 1: float64 [..., N]. Equal values share the mean of their ranks.

    Args:
        values: real numbers [..., N]. Where one is NaN, all N ranks are.
    """
    array = np.asarray(values)
    order = np.argsort(array, axis=-1, kind="stable")
    ordered = np.take_along_axis(array, order, -1)
    differs = ordered[..., 1:] != ordered[..., :-1]
    edge = np.ones((*array.shape[:-1], 1), bool)
    places = np.arange(array.shape[-1])
    # Of the values that are equal to each: the first and the last place.
    first = np.maximum.accumulate(np.where(np.concatenate([edge, differs], -1), places, 0), -1)
    backwards = np.where(np.concatenate([differs, edge], -1), places, len(places))[..., ::-1]
    last = np.minimum.accumulate(backwards, -1)[..., ::-1]
    ranks = np.empty(array.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, -1)
    return np.where(np.isnan(array).any(-1, keepdims=True), np.nan, ranks)


def center_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return ``mean_ranks`` minus their mean over the last axis: float64 [..., N]."""
    ranks = mean_ranks(values)
    return ranks - ranks.mean(-1, keepdims=True)


def correlate(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation of rows that have the mean 0: [..., N] each → [...]; 0 where either is constant."""
    norm = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    return np.divide((first * second).sum(-1), norm, out=np.zeros(norm.shape), where=norm > 0)
