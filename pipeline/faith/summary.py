"""From figures of maps to means with intervals."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.faith.adcc import adcc
from pipeline.faith.measure import Better
from schemas.faith import SUMMARY

REPLICATES = 1000
_AT_ONCE = 50
"""Replicates that are weighted together; bounds memory."""
_PARTS = ("average_drop", "coherency", "complexity")


def summarise(table: pa.Table, better: Mapping[str, Better]) -> pa.Table:
    """Means over the images, with the Poisson bootstrap's intervals: ``schemas.faith.SUMMARY``.

    Args:
        table: ``schemas.faith.FIGURES``, in any order.
        better: direction of each figure.
    """
    columns: dict[tuple[str, str, str], int] = {}
    names = ("method", "target", "figure")
    which = [
        columns.setdefault((method, target, figure), len(columns))
        for method, target, figure in zip(*(table[name].to_pylist() for name in names), strict=True)
    ]
    images, place = np.unique(table["row"].to_numpy(), return_inverse=True)
    values = np.full((len(images), len(columns)), np.nan)
    values[place, which] = table["value"].to_numpy()
    means, replicates = _mean(values, np.ones((1, len(images))))[0], _replicates(values)
    rows: list[dict[str, Any]] = []
    for (method, target, figure), column in columns.items():
        known = int(np.isfinite(values[:, column]).sum())
        found = _row(method, target, figure, better[figure], known)
        rows.append(found | _interval(means[column], replicates[:, column]))
        if figure == "adcc":
            parts = [columns[method, target, part] for part in _PARTS]
            whole = float(adcc(*means[parts]))
            rows.append(
                _row(method, target, "adcc_of_means", better[figure], known)
                | _interval(whole, adcc(*replicates[:, parts].T))
            )
    return pa.Table.from_pylist(rows, schema=SUMMARY)


def _replicates(values: NDArray[np.float64]) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    weights = (rng.poisson(1, (_AT_ONCE, len(values))).astype(np.float64) for _ in range(REPLICATES // _AT_ONCE))
    return np.concatenate([_mean(values, each) for each in weights])


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means [R, columns] of what is known of values [images, columns], for weights [R, images]."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ np.where(known, values, 0)) / (weights @ known)


def _row(method: str, target: str, figure: str, better: Better, images: int) -> dict[str, Any]:
    return {"method": method, "target": target, "figure": figure, "better": better, "images": images}


def _interval(mean: float, replicates: NDArray[np.float64]) -> dict[str, float | None]:
    replicates = replicates[np.isfinite(replicates)]  # a replicate of few images may have none
    if not np.isfinite(mean):
        return {"mean": None, "low": None, "high": None}
    low, high = np.percentile(replicates, [2.5, 97.5]) if len(replicates) else (mean, mean)
    return {"mean": float(mean), "low": float(low), "high": float(high)}
