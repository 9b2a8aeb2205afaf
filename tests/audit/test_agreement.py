"""Agreement is what its formulas say, 1 of a map with itself, and undefined where a map says nothing."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr, spearmanr
from support import examples

from pipeline.audit.agreement import compare_maps, compare_pairs, prepare_maps
from schemas.audit_tables import AGREEMENT_METRICS, TOP_SHARES

MAPS = np.random.default_rng(0).random((2, 40, 7, 9)).astype(np.float16)


@examples(60)
@given(arrays(np.float16, (4, 5, 6), elements=st.floats(0, 1, width=16)))
def test_a_map_agrees_with_itself_by_exactly_one(maps: np.ndarray) -> None:
    one = prepare_maps(maps)
    for name, values in compare_maps(one, one).items():
        assert np.array_equal(values[one.valid], np.ones(one.valid.sum())), name
        assert np.isnan(values[~one.valid]).all(), name


def test_correlations_are_those_of_scipy_with_ties_too() -> None:
    first, second = np.round(MAPS * 8) / 8
    found = compare_maps(prepare_maps(first), prepare_maps(second))
    for place in range(len(first)):
        one, other = first[place].ravel().astype(float), second[place].ravel().astype(float)
        assert found["pearson"][place] == pytest.approx(pearsonr(one, other)[0], abs=1e-12)
        assert found["spearman"][place] == pytest.approx(spearmanr(one, other)[0], abs=1e-12)


@pytest.mark.parametrize("name", TOP_SHARES)
def test_overlap_without_ties_counts_the_cells_that_are_in_both(name: str) -> None:
    first, second = np.random.default_rng(1).random((2, 30, 10, 10))
    found = compare_maps(prepare_maps(first), prepare_maps(second))[name]
    count = round(100 * TOP_SHARES[name])
    for place in range(30):
        sets = [set(np.argsort(-each[place].ravel())[:count]) for each in (first, second)]
        assert found[place] == pytest.approx(len(sets[0] & sets[1]) / count)


def test_tied_cells_share_the_last_places() -> None:
    first, second = np.zeros((2, 1, 4, 5))
    first[0, 0, 0] = second[0, 0, 0] = 1  # of 20 cells, four make the top fifth: this one, and three of 19
    second[0, 1, :3] = 0.5
    assert compare_maps(prepare_maps(first), prepare_maps(second))["top20"] == pytest.approx((1 + 3 * 3 / 19) / 4)


def test_iou_is_that_of_the_masks_above_the_threshold_of_otsu() -> None:
    first, second = np.zeros((2, 1, 4, 4))
    first[0, :2], second[0, 1:3] = 0.9, 0.8
    first[0, 0, 0] = second[0, 1, 0] = 1
    assert compare_maps(prepare_maps(first), prepare_maps(second))["iou"] == pytest.approx(4 / 12)


@pytest.mark.parametrize("name", AGREEMENT_METRICS)
def test_it_is_symmetric_and_no_scale_changes_it(name: str) -> None:
    first, second = (prepare_maps(maps) for maps in MAPS)
    value = compare_maps(first, second)[name]
    assert np.array_equal(value, compare_maps(second, first)[name])
    assert (np.abs(value) <= 1).all()
    if name != "iou":  # Otsu's threshold is sought in [0, 1]
        assert np.allclose(value, compare_maps(prepare_maps(MAPS[0].astype(float) * 3 + 1), second)[name], atol=1e-12)


def test_maps_that_say_nothing_are_undefined_and_disturb_no_other() -> None:
    first, second = MAPS.astype(np.float32)
    expected = compare_maps(prepare_maps(first), prepare_maps(second))
    first[3], second[5, 0, 0] = 0.25, np.nan
    for name, values in compare_maps(prepare_maps(first), prepare_maps(second)).items():
        assert np.flatnonzero(np.isnan(values)).tolist() == [3, 5]
        kept = np.isfinite(values)
        assert np.array_equal(values[kept], expected[name][kept])


def test_each_two_methods_are_compared_once_in_order() -> None:
    maps = dict(zip("abc", np.random.default_rng(2).random((3, 5, 4, 4)), strict=True))
    found = list(compare_pairs(maps))
    assert [each[:2] for each in found] == list(combinations("abc", 2))
    assert all(list(each[2]) == list(AGREEMENT_METRICS) for each in found)


def test_of_no_maps_there_is_no_agreement() -> None:
    nothing = prepare_maps(np.zeros((0, 4, 4)))
    assert all(values.shape == (0,) for values in compare_maps(nothing, nothing).values())
