"""Calibration of probabilities, from its definition."""

import numpy as np
import pytest

from pipeline.utils.calibration import BINS, CalibrationError


def of(p: np.ndarray, y: np.ndarray) -> CalibrationError:
    found = CalibrationError()
    found.add(p, y)
    return found


def test_by_hand() -> None:
    found = of(np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 1, 1, 1]))
    assert found.ece == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)
    assert found.brier == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)


def test_probabilities_that_are_true_have_next_to_no_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    found = of(p, rng.random(200_000) < p)
    assert found.ece < 0.01
    assert found.brier == pytest.approx(1 / 6, abs=0.003)


def test_parts_add_up_and_the_edge_belongs_to_the_last_bin() -> None:
    rng = np.random.default_rng(1)
    p, y = np.concatenate([rng.random(999), [1.0]]), rng.random(1000)
    whole, parts = of(p, y), CalibrationError()
    for part in np.array_split(np.arange(1000), 7):
        parts.add(p[part], y[part])
    assert (whole.counts == parts.counts).all()
    assert whole.ece == pytest.approx(parts.ece)
    assert whole.brier == pytest.approx(parts.brier)
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    expected = sum(abs(p[bins == b].mean() - y[bins == b].mean()) * (bins == b).sum() for b in range(BINS)) / 1000
    assert whole.ece == pytest.approx(expected)
