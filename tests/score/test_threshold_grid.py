"""Grids of thresholds: which levels and bins a step selects."""

import numpy as np
import pytest

from pipeline.score.box_metrics import BOX_THRESHOLDS, THRESHOLDS
from pipeline.score.pixel_metrics import BINS, pxap
from pipeline.score.threshold_grid import ThresholdGrid
from schemas.errors import UsageError


def test_the_default_is_every_level_and_every_bin() -> None:
    grid = ThresholdGrid()
    assert np.array_equal(grid.levels, np.arange(255))
    assert np.array_equal(grid.thresholds, BOX_THRESHOLDS)
    counts = np.random.default_rng(0).integers(0, 9, (2, BINS))
    assert np.array_equal(grid.coarsen(counts), counts)


@pytest.mark.parametrize("step", [0.01, 0.02, 0.005, 0.003, 0.5])
def test_a_step_selects_the_levels_and_bins_that_it_has_in_the_reference(step: float) -> None:
    grid, thresholds = ThresholdGrid(step), np.arange(0, 1, step)
    assert grid.levels.tolist() == sorted({int(threshold * 255) for threshold in thresholds})
    assert np.allclose(grid.thresholds, [min(t for t in thresholds if int(t * 255) == cut) for cut in grid.levels])
    scores = np.append(np.random.default_rng(0).random(500), [1.0, 1.0, 0.0])
    fine, edges = np.histogram(scores, [*THRESHOLDS, 1.0, 2.0])[0], [*thresholds, 1.0, 2.0]
    assert grid.coarsen(fine).tolist() == np.histogram(scores, edges)[0].tolist()


def test_pxap_depends_on_the_step() -> None:
    counts = np.random.default_rng(0).integers(0, 9, (2, BINS)) * np.stack([np.arange(BINS), np.arange(BINS)[::-1]])
    assert pxap(ThresholdGrid(0.1).coarsen(counts)) != pytest.approx(pxap(counts), abs=0.1)


@pytest.mark.parametrize("step", [0, -0.01, 0.0015, 0.6, 1, float("nan"), float("inf")])
def test_another_step_is_refused(step: float) -> None:
    with pytest.raises(UsageError, match="must be a whole multiple of"):
        ThresholdGrid(step)
