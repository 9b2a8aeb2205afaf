"""What is counted as standing out, and that alarms are as rare as is promised."""

import numpy as np
import pytest

from pipeline.audit.fixed_location_test import ALARM_THRESHOLD, ALPHA, OutlierCounts, find_outlier_cells

CELLS, WIDTH = 64, 8


def blobs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Maps of an object anywhere."""
    y, x = np.mgrid[:WIDTH, :WIDTH]
    at = rng.uniform(0, WIDTH, (2, count, 1, 1))
    return np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 4) + 0.05 * rng.random((count, WIDTH, WIDTH))


def test_the_farthest_tenth_stands_out_above_and_below_the_median() -> None:
    values = np.full((1, 5, 4), 0.5) + np.linspace(-0.01, 0.01, 20).reshape(1, 5, 4)
    values[0, 0, 0], values[0, 4, 3] = 0.0, 0.9
    signs = find_outlier_cells(values)[0]
    assert signs[0] == -1
    assert signs[19] == 1
    assert np.abs(signs).sum() == 2


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_scale_and_offset_change_nothing(kind: type) -> None:
    maps = np.random.default_rng(0).integers(0, 64, (50, 7, 7)).astype(kind)
    expected = find_outlier_cells(maps)
    assert np.array_equal(find_outlier_cells(maps * 4 + 16), expected)
    assert np.array_equal(find_outlier_cells(-maps), -expected)
    assert (np.abs(expected).sum(1) <= 4).all()


def test_ties_and_constant_maps_let_nothing_stand_out() -> None:
    assert not find_outlier_cells(np.full((3, 4, 4), 0.3)).any()
    assert not find_outlier_cells(np.eye(4)[None]).any()  # four cells that are alike, and one may
    assert find_outlier_cells(np.eye(16)[:, :, None]).astype(bool).sum(1).tolist() == [1] * 16


def test_counts_of_parts_add() -> None:
    rng = np.random.default_rng(1)
    maps, classes = rng.random((90, 6, 6)), rng.integers(0, 5, 90)
    whole = OutlierCounts.from_maps(maps, classes, 7)
    parts = OutlierCounts.from_maps(maps[:40], classes[:40], 7) + OutlierCounts.from_maps(maps[40:], classes[40:], 7)
    assert all(np.array_equal(getattr(whole, name), getattr(parts, name)) for name in ("maps", "high", "low"))
    assert np.array_equal(whole.excess_lower_bounds(), parts.excess_lower_bounds())
    nothing = OutlierCounts.from_maps(maps[:0], classes[:0], 7)
    assert np.array_equal((whole + nothing).excess_lower_bounds(), whole.excess_lower_bounds())
    assert (nothing.excess_lower_bounds() <= 0).all()
    assert (whole.excess_lower_bounds()[5:] <= 0).all()  # classes without maps


@pytest.mark.parametrize("sign", [1, -1], ids=["peak", "hole"])
def test_a_mark_that_decides_is_found_at_its_place_and_by_its_sign(sign: int) -> None:
    rng = np.random.default_rng(2)
    maps, classes = blobs(rng, 600), np.arange(600) % 6
    marked = (classes == 4) & (rng.random(600) < 0.7)
    maps[marked] = 0.5 + 0.05 * rng.random((int(marked.sum()), WIDTH, WIDTH))
    maps[marked, 1, 6] += 0.4 * sign
    standing = OutlierCounts.from_maps(maps, classes, 6)
    best = standing.excess_lower_bounds().max(1)
    assert best.argmax() == 4
    assert (best > ALARM_THRESHOLD).tolist() == [False] * 4 + [True, False]
    assert standing.excess_lower_bounds()[4].argmax() == 1 * WIDTH + 6
    assert (standing.high if sign > 0 else standing.low)[4, 14] > 0.6 * standing.maps[4]


def test_what_all_classes_share_is_no_alarm() -> None:
    rng = np.random.default_rng(3)
    maps = blobs(rng, 600)
    maps[:, 0, 0] = 3
    assert OutlierCounts.from_maps(maps, np.arange(600) % 6, 6).excess_lower_bounds().max() < 0


def standing(rng: np.random.Generator, maps: np.ndarray, share: np.ndarray) -> OutlierCounts:
    """Counts of maps whose cells stand out with these probabilities [classes, cells]."""
    above = rng.binomial(maps[:, None], share)
    return OutlierCounts(maps, above, np.zeros_like(above))


@pytest.mark.parametrize("maps", [20, 100, 1000])
@pytest.mark.parametrize("excess", [0.0, ALARM_THRESHOLD], ids=["no difference", "at the threshold"])
def test_false_alarms_are_as_rare_as_is_promised(maps: int, excess: float) -> None:
    """At the threshold every class exceeds the others by just what is tolerated, at a cell of its own."""
    rng = np.random.default_rng(4)
    share = np.full((10, CELLS), 0.1)
    share[np.arange(10), np.arange(10)] += excess * 1.1  # of which a tenth is in the others' share
    alarms = sum(
        (standing(rng, np.full(10, maps), share).excess_lower_bounds() > ALARM_THRESHOLD).any() for _ in range(200)
    )
    assert alarms <= 200 * ALPHA


@pytest.mark.parametrize(("maps", "share", "found"), [(50, 0.6, 0.9), (100, 0.5, 0.95), (1000, 0.25, 0.95)])
def test_what_is_clearly_above_the_threshold_is_found(maps: int, share: float, found: float) -> None:
    rng = np.random.default_rng(5)
    shares = np.full((10, CELLS), 0.05)
    shares[3, 9] = share
    best = [standing(rng, np.full(10, maps), shares).excess_lower_bounds().max(1) for _ in range(100)]
    assert np.mean([each[3] > ALARM_THRESHOLD and each.argmax() == 3 for each in best]) >= found


def test_labels_that_have_been_shuffled_raise_no_alarm() -> None:
    rng = np.random.default_rng(6)
    maps = blobs(rng, 800)
    maps[:100] = 0.5 + 0.01 * rng.random((100, WIDTH, WIDTH))
    maps[:100, 7, 0] = 1
    alarms = sum(
        (OutlierCounts.from_maps(maps, rng.permutation(800) % 8, 8).excess_lower_bounds() > ALARM_THRESHOLD).any()
        for _ in range(40)
    )
    assert alarms == 0
