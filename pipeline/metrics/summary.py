"""Means of metric values over images, with bootstrap intervals."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.metrics.adcc import adcc
from pipeline.utils.bootstrap import REPLICATES, percentile_interval, poisson_weights
from schemas.metrics import METRIC_SUMMARY, Direction

_CHUNK_SIZE = 64
"""Images that are weighted at once; bounds memory."""
_ADCC_PARTS = ("average_drop", "coherency", "complexity")

SummaryKey = tuple[str, str, str]
"""Method, target and metric."""
Notes = Mapping[tuple[str, str], str | None]
"""Remarks by method and metric."""


class BootstrapSums:
    """Sums of one metric over images: plain, and for each replicate of the bootstrap. No values are kept."""

    def __init__(self) -> None:
        self.count, self.sums, self.weights = 0, np.zeros(1 + REPLICATES), np.zeros(1 + REPLICATES)

    def add(self, values: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
        """Add images.

        Args:
            values: float64 [images], NaN where undefined.
            weights: float64 [1 + REPLICATES, images], the plain ones first.
        """
        defined = np.isfinite(values)
        self.count += int(defined.sum())
        self.sums += weights @ np.where(defined, values, 0)
        self.weights += weights @ defined

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean and means of the replicates, float64 [1 + REPLICATES]; NaN without any value."""
        with np.errstate(invalid="ignore"):
            return self.sums / self.weights


def summarize(tables: Iterable[pa.Table], directions: Mapping[str, Direction], notes: Notes | None = None) -> pa.Table:
    """Compute means over images with 95 % bootstrap intervals: ``schemas.metrics.METRIC_SUMMARY``.

    Args:
        tables: tables of ``schemas.metrics.METRIC_VALUES``; all rows of an image are in the same table. One at a time
            is in memory.
        directions: whether higher or lower is better, by metric.
        notes: remarks by method and metric.
    """
    rng = np.random.default_rng(0)
    sums: dict[SummaryKey, BootstrapSums] = {}
    for table in tables:
        for columns in _iter_columns(table):
            images = len(next(iter(columns.values())))
            weights = np.vstack([np.ones(images), poisson_weights(rng, images)])
            for key, values in columns.items():
                sums.setdefault(key, BootstrapSums()).add(values, weights)
    rows: list[dict[str, Any]] = []
    for (method, target, metric), total in sums.items():
        row = {"method": method, "target": target, "better": directions[metric], "images": total.count}
        note = (notes or {}).get((method, metric))
        rows.append(row | {"metric": metric, "note": note} | _interval(total.means))
        if metric == "adcc":
            of_means = adcc(*(sums[method, target, part].means for part in _ADCC_PARTS))
            rows.append(row | {"metric": "adcc_of_means"} | _interval(of_means))
    return pa.Table.from_pylist(rows, schema=METRIC_SUMMARY)


def _iter_columns(table: pa.Table) -> Iterable[dict[SummaryKey, NDArray[np.float64]]]:
    """Yield values [images] of a chunk of images by key, images in the order of their rows."""
    images, indices = np.unique(table["row"].to_numpy(), return_inverse=True)
    keys = zip(*(table[name].to_pylist() for name in ("method", "target", "metric")), strict=True)
    columns: dict[SummaryKey, NDArray[np.float64]] = {}
    for key, index, value in zip(keys, indices, table["value"].to_numpy(), strict=True):
        columns.setdefault(key, np.full(len(images), np.nan))[index] = value
    for first in range(0, len(images), _CHUNK_SIZE):
        yield {key: values[first : first + _CHUNK_SIZE] for key, values in columns.items()}


def _interval(means: NDArray[np.float64]) -> dict[str, float | None]:
    """Return the mean and its percentiles over replicates, from [1 + REPLICATES]."""
    mean = float(means[0])
    if not np.isfinite(mean):
        return {"mean": None, "low": None, "high": None}
    low, high = percentile_interval(means[1:]) or (mean, mean)
    return {"mean": mean, "low": low, "high": high}
