"""Means and intervals of figures."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.metrics.adcc import adcc
from pipeline.metrics.summary import summarize
from schemas.metrics import METRIC_SUMMARY, METRIC_VALUES

BETTER = dict.fromkeys(("adcc", "average_drop", "coherency", "complexity", "gini"), "higher")


def table(**figures: np.ndarray) -> pa.Table:
    """Figures [images] of one method."""
    rows = [
        {"row": row, "key": f"k{row}", "method": "m", "target": "label", "metric": figure, "value": value}
        for figure, values in figures.items()
        for row, value in enumerate(values)
    ]
    return pa.Table.from_pylist(rows, schema=METRIC_VALUES)


def summary(figures: pa.Table) -> dict[str, dict]:
    found = summarize([figures], BETTER)
    assert found.schema == METRIC_SUMMARY
    return {row["metric"]: row for row in found.to_pylist()}


def test_the_interval_is_that_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.2, 2000)
    found = summary(table(gini=values))["gini"]
    assert found["mean"] == pytest.approx(values.mean())
    error = 1.96 * values.std() / np.sqrt(2000)
    assert found["low"] == pytest.approx(values.mean() - error, abs=0.15 * error)
    assert found["high"] == pytest.approx(values.mean() + error, abs=0.15 * error)


def test_what_is_null_does_not_count() -> None:
    found = summary(table(gini=[0.2, None, 0.4], coherency=[None] * 3))
    assert (found["gini"]["images"], found["gini"]["mean"]) == (2, pytest.approx(0.3))
    assert (found["coherency"]["images"], found["coherency"]["mean"], found["coherency"]["low"]) == (0, None, None)


def test_the_order_of_rows_does_not_matter_and_one_value_has_no_width() -> None:
    figures = table(gini=np.full(7, 0.25), coherency=np.arange(7.0))
    mixed = figures.take(np.random.default_rng(0).permutation(len(figures)))
    assert summary(mixed) == summary(figures)
    one = summary(figures)["gini"]
    assert one["low"] == one["mean"] == one["high"] == 0.25


def test_adcc_of_means_is_that_of_papers() -> None:
    parts = np.random.default_rng(0).uniform(0.1, 0.9, (3, 40))
    figures = table(average_drop=parts[0], coherency=parts[1], complexity=parts[2], adcc=adcc(*parts))
    found = summary(figures)
    assert found["adcc_of_means"]["mean"] == pytest.approx(float(adcc(*parts.mean(1))))
    assert found["adcc"]["mean"] == pytest.approx(adcc(*parts).mean())
    assert found["adcc_of_means"]["low"] < found["adcc_of_means"]["mean"] < found["adcc_of_means"]["high"]
