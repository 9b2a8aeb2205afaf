"""Formulas of faithfulness and sanity, against closed forms and published tables."""

import numpy as np
import pytest
from scipy.integrate import trapezoid

from pipeline.metrics.adcc import adcc, average_drop, coherency, complexity
from pipeline.metrics.masked_forward import removal_masks, removal_ranks
from pipeline.metrics.max_sensitivity import relative_change
from pipeline.metrics.parameter_randomization import entropy_rise, histogram_entropy
from pipeline.metrics.quadrature import quadrature
from pipeline.metrics.similarity import abs_spearman, pearson, spearman

TABLE = {  # ViT-ReciproCAM, Table 1, in %: drop, coherency, complexity, ADCC
    "DeiT-B relevance": (55.31, 79.41, 13.17, 64.53),
    "DeiT-B single": (33.57, 70.22, 53.54, 59.03),
    "DeiT-B 3×3": (25.82, 88.61, 46.35, 69.11),
    "DeiT-S relevance": (55.85, 80.67, 12.53, 64.54),
    "DeiT-S single": (31.42, 67.62, 54.21, 58.58),
    "DeiT-S 3×3": (27.69, 84.58, 41.16, 70.34),
}


@pytest.mark.parametrize("row", TABLE)
def test_adcc_composes_the_parts_as_the_published_table_does(row: str) -> None:
    average_drop, together, share, expected = TABLE[row]
    assert 100 * adcc(average_drop / 100, together / 100, share / 100) == pytest.approx(expected, abs=0.01)


def test_adcc_of_unrounded_parts_is_the_published_one() -> None:
    assert adcc(0.151815, 0.837710, 0.450774) == pytest.approx(0.715399, abs=1e-6)


@pytest.mark.parametrize("parts", [(1, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 1)])
def test_adcc_is_0_where_a_part_is_the_worst(parts: tuple[float, float, float]) -> None:
    assert adcc(*parts) == 0


def test_adcc_of_many_is_that_of_each() -> None:
    parts = np.random.default_rng(0).random((3, 4, 2))
    each = [[adcc(*parts[:, row, column]) for column in range(2)] for row in range(4)]
    np.testing.assert_array_equal(adcc(*parts), each)


def test_drop_by_hand() -> None:
    np.testing.assert_allclose(average_drop([0.8, 0.5, 0.5], [0.2, 0.5, 0.9]), [0.75, 0, 0])


def test_a_map_is_coherent_with_itself_not_with_its_negative_and_a_constant_one_with_nothing() -> None:
    one = np.random.default_rng(0).random((4, 5))
    found = coherency(np.stack([one, one, np.full_like(one, 0.1)]), np.stack([3 * one + 1, -one, one]))
    np.testing.assert_allclose(found, [1, 0, 0], atol=1e-12)


def test_correlation_agrees_with_scipy() -> None:
    from scipy import stats

    a, b = np.random.default_rng(0).integers(0, 9, (2, 5, 30))
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        expected = [theirs(*pair).statistic for pair in zip(a, b, strict=True)]
        np.testing.assert_allclose(ours(a, b), expected, atol=1e-12)


@pytest.mark.parametrize("spacing", ["gauss", "equal"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 28])
def test_quadrature_has_both_ends_is_symmetric_and_sums_to_1(steps: int, spacing: str) -> None:
    places, weights = quadrature(steps, spacing)
    assert (places[0], places[-1], len(places)) == (0, 1, steps + 1)
    assert weights.min() > 0
    np.testing.assert_allclose(weights.sum(), 1)
    np.testing.assert_allclose(places + places[::-1], 1, atol=1e-9)
    np.testing.assert_allclose(weights, weights[::-1], atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6])
def test_gauss_lobatto_is_exact_up_to_its_degree_and_no_further(steps: int) -> None:
    places, weights = quadrature(steps, "gauss")
    for degree in range(2 * steps):
        assert places**degree @ weights == pytest.approx(1 / (degree + 1))
    assert places ** (2 * steps) @ weights != pytest.approx(1 / (2 * steps + 1), rel=1e-9)


def test_five_places_are_the_published_ones() -> None:
    places, weights = quadrature(4, "gauss")
    np.testing.assert_allclose(2 * places - 1, [-1, -np.sqrt(3 / 7), 0, np.sqrt(3 / 7), 1], atol=1e-12)
    np.testing.assert_allclose(2 * weights, [1 / 10, 49 / 90, 32 / 45, 49 / 90, 1 / 10])


def test_equal_steps_are_trapezoids() -> None:
    places, weights = quadrature(7, "equal")
    curve = np.random.default_rng(0).random(8)
    assert curve @ weights == pytest.approx(trapezoid(curve, places))


def test_equal_values_go_by_index_in_either_order() -> None:
    values = np.array([[0.5, 1.0], [0.5, 0.0]])
    assert removal_ranks(values, "most").tolist() == [1, 0, 2, 3]
    assert removal_ranks(values, "least").tolist() == [1, 3, 2, 0]
    flat = np.zeros((2, 3))
    assert (removal_ranks(flat, "most") == removal_ranks(flat, "least")).all()


def test_replaced_patches_are_the_first_of_the_order_and_nested() -> None:
    maps = np.random.default_rng(0).random((2, 3, 4, 5))
    masks = removal_masks(maps, "most", [0, 7, 20])
    assert masks.shape == (2, 3, 3, 20)
    assert (masks.sum(-1) == [0, 7, 20]).all()
    kept, gone = (np.where(mask, maps.reshape(2, 3, 20), fill) for mask, fill in zip(
        (~masks[:, :, 1], masks[:, :, 1]), (-1, 2), strict=True
    ))  # fmt: skip
    assert (gone.min(-1) >= kept.max(-1)).all()


def test_complexity_is_the_mean_of_a_map() -> None:
    one, half = np.zeros((4, 4)), np.zeros((4, 4))
    one[0, 0], half[:2] = 1, 1
    np.testing.assert_allclose(complexity(np.stack([one, half])), [1 / 16, 1 / 2])


def test_change_is_in_parts_of_the_norm_and_undefined_without_one() -> None:
    one = np.array([[3.0, 4.0]])
    found = relative_change(np.stack([one, one, 0 * one]), np.stack([one, 2 * one, one]))
    np.testing.assert_array_equal(found, [0, 1, np.nan])


def test_similarity_of_equal_reversed_and_constant_maps() -> None:
    ramp = np.arange(6.0).reshape(2, 3)
    first = np.stack([ramp, ramp, ramp, ramp * 0, ramp])
    second = np.stack([ramp, 5 - ramp, ramp * 0 + 1, ramp * 0, -ramp])
    np.testing.assert_allclose(abs_spearman(first, second), [1, -1, 0, 1, 1], atol=1e-12)


def test_emprt_by_hand() -> None:
    two = np.array([[0, 0], [1, 1.0]])  # two bins, each half
    four = np.array([[0, 1], [2, 3.0]])  # four bins, each a quarter
    np.testing.assert_allclose(histogram_entropy(np.stack([two, four, two * 0])), [np.log(2), np.log(4), 0])
    found = entropy_rise(np.stack([two, four, two, two * 0]), np.stack([four, two, two, four]))
    np.testing.assert_allclose(found, [1, -0.5, 0, np.nan])
