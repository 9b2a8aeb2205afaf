"""From figures of maps to means with intervals."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.metrics.adcc import adcc
from schemas.metrics import METRIC_SUMMARY, Direction

REPLICATES = 1000
_AT_ONCE = 64
"""Images that are weighted together; bounds memory."""
_PARTS = ("average_drop", "coherency", "complexity")

Whose = tuple[str, str, str]
"""Method, target and figure."""
Notes = Mapping[tuple[str, str], str | None]
"""What must be known to read a figure, by method and figure."""


class Totals:
    """Sums of one figure over the images: plain, and of each replicate of the Poisson bootstrap, by its weights.

    A replicate counts each image 0, 1, 2 … times, by a Poisson distribution of mean 1, whatever the number of images.
    So it can be summed up as images come, and nothing is kept of them.
    """

    def __init__(self) -> None:
        self.number, self.sums, self.weights = 0, np.zeros(1 + REPLICATES), np.zeros(1 + REPLICATES)

    def add(self, values: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
        """Values [images], NaN where there is none, under weights [1 + REPLICATES, images], the plain ones first."""
        known = np.isfinite(values)
        self.number += int(known.sum())
        self.sums += weights @ np.where(known, values, 0)
        self.weights += weights @ known

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean, and that of each replicate; NaN where nothing is known."""
        with np.errstate(invalid="ignore"):
            return self.sums / self.weights


def summarize(tables: Iterable[pa.Table], better: Mapping[str, Direction], notes: Notes | None = None) -> pa.Table:
    """Means over the images, with intervals of the bootstrap: ``schemas.metrics.SUMMARY``.

    Args:
        tables: ``schemas.metrics.FIGURES``; all rows of an image are in one. One is in memory at a time.
        better: direction of each figure.
        notes: on figures, by method and figure.
    """
    rng = np.random.default_rng(0)
    totals: dict[Whose, Totals] = {}
    for table in tables:
        for values in _by_image(table):
            count = len(next(iter(values.values())))
            weights = np.vstack([np.ones(count), rng.poisson(1, (REPLICATES, count))])
            for whose, each in values.items():
                totals.setdefault(whose, Totals()).add(each, weights)
    rows: list[dict[str, Any]] = []
    for (method, target, figure), total in totals.items():
        found = _row(method, target, figure, better[figure], total.number)
        rows.append(found | _interval(total.means) | {"note": (notes or {}).get((method, figure))})
        if figure == "adcc":
            parts = adcc(*(totals[method, target, part].means for part in _PARTS))
            rows.append(_row(method, target, "adcc_of_means", better[figure], total.number) | _interval(parts))
    return pa.Table.from_pylist(rows, schema=METRIC_SUMMARY)


def _by_image(table: pa.Table) -> Iterable[dict[Whose, NDArray[np.float64]]]:
    """Values of a few images at a time, [images] by whose they are, images in the order of their rows."""
    images, place = np.unique(table["row"].to_numpy(), return_inverse=True)
    whose = zip(*(table[name].to_pylist() for name in ("method", "target", "metric")), strict=True)
    values: dict[Whose, NDArray[np.float64]] = {}
    for each, row, value in zip(whose, place, table["value"].to_numpy(), strict=True):
        values.setdefault(each, np.full(len(images), np.nan))[row] = value
    for first in range(0, len(images), _AT_ONCE):
        yield {each: column[first : first + _AT_ONCE] for each, column in values.items()}


def _row(method: str, target: str, figure: str, better: Direction, images: int) -> dict[str, Any]:
    return {"method": method, "target": target, "metric": figure, "better": better, "images": images}


def _interval(means: NDArray[np.float64]) -> dict[str, float | None]:
    """Of the mean and its replicates [1 + REPLICATES]."""
    mean, replicates = means[0], means[1:][np.isfinite(means[1:])]  # a replicate of few images may have none
    if not np.isfinite(mean):
        return {"mean": None, "low": None, "high": None}
    low, high = np.percentile(replicates, [2.5, 97.5]) if len(replicates) else (mean, mean)
    return {"mean": float(mean), "low": float(low), "high": float(high)}
