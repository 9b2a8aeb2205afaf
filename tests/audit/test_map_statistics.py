"""Numbers of hand-made maps are what anybody would compute."""

import numpy as np
import pytest

from pipeline.audit.map_statistics import compute_coverage, compute_object_mass, compute_statistics
from pipeline.truth.truth import Truth


def one(values: np.ndarray) -> dict[str, float]:
    return {name: float(found[0]) for name, found in compute_statistics(values[None]).items()}


@pytest.mark.parametrize("cells", [1, 4, 30])
def test_mass_that_is_even_over_some_cells(cells: int) -> None:
    values = np.zeros((6, 10))
    values.ravel()[:cells] = 0.7
    found = one(values)
    assert found["entropy"] == pytest.approx(np.log(cells) / np.log(60))
    assert found["effective_area"] == pytest.approx(cells / 60)
    assert found["gini"] == pytest.approx(1 - cells / 60)


def test_gini_is_the_mean_difference_of_cells_over_twice_their_mean() -> None:
    values = np.random.default_rng(0).random((5, 5))
    flat = values.ravel()
    expected = np.abs(flat[:, None] - flat).mean() / (2 * flat.mean())
    assert one(values)["gini"] == pytest.approx(expected)


@pytest.mark.parametrize(("y", "x"), [(0, 0), (5, 9), (2, 3), (0, 4)])
def test_where_the_mass_of_one_cell_is(y: int, x: int) -> None:
    values = np.zeros((6, 10))
    values[y, x] = 1
    found = one(values)
    assert (found["center_y"], found["center_x"]) == pytest.approx(((y + 0.5) / 6, (x + 0.5) / 10))
    assert found["border_mass"] == float(y in (0, 5) or x in (0, 9))
    assert found["corner_mass"] == float(y in (0, 5) and x in (0, 9))


def test_the_frame_is_an_eighth_wide_whatever_the_grid() -> None:
    for side in (8, 16, 24):
        found = one(np.ones((side, side)))
        wide = side // 8
        assert found["border_mass"] == pytest.approx(1 - ((side - 2 * wide) / side) ** 2)
        assert found["corner_mass"] == pytest.approx(4 * wide**2 / side**2)


def test_scale_changes_nothing_and_all_is_between_0_and_1() -> None:
    maps = np.random.default_rng(1).random((20, 7, 7))
    first, second = compute_statistics(maps), compute_statistics(maps * 5)
    for name, values in first.items():
        assert np.allclose(values, second[name])
        assert ((values >= 0) & (values <= 1)).all(), name


def test_of_no_maps_there_are_no_numbers() -> None:
    assert all(values.shape == (0,) for values in compute_statistics(np.zeros((0, 4, 4))).values())


class Known(Truth):
    """Truth that a test makes up."""

    given: tuple[np.ndarray, np.ndarray | None]

    @property
    def boxes(self) -> np.ndarray:
        return self.given[0]

    @property
    def mask(self) -> np.ndarray | None:
        return self.given[1]


def known(boxes: list[list[int]], mask: np.ndarray | None = None, size: tuple[int, int] = (30, 20)) -> Known:
    truth = Known("key", *size)
    object.__setattr__(truth, "given", (np.array(boxes, np.int64).reshape(-1, 4), mask))
    return truth


def test_a_box_covers_cells_by_its_area_ends_included() -> None:
    covered = compute_coverage(known([[0, 0, 14, 9]]), (0, 0, 1, 1), (2, 3))
    assert covered is not None
    assert covered == pytest.approx(np.array([[1, 0.5, 0], [0, 0, 0]]))


def test_a_mask_counts_more_than_its_box_and_only_in_the_window() -> None:
    mask = np.zeros((20, 30), bool)
    mask[:, 15:] = True
    for window, expected in (((0, 0, 1, 1), [0, 1]), ((0.25, 0, 0.75, 1), [0, 1]), ((0.5, 0, 1.5, 1), [1, 0])):
        covered = compute_coverage(known([[0, 0, 29, 19]], mask), window, (1, 2))
        assert covered is not None
        assert covered == pytest.approx(np.array([expected]))


@pytest.mark.parametrize("grid", [(1, 1), (3, 7), (20, 30), (27, 41)])
def test_coverage_of_cells_adds_to_the_area(grid: tuple[int, int]) -> None:
    mask = np.random.default_rng(2).random((20, 30)) > 0.6
    covered = compute_coverage(known([[0, 0, 1, 1]], mask), (0, 0, 1, 1), grid)
    assert covered is not None
    assert covered.shape == grid
    assert covered.mean() == pytest.approx(mask.mean())
    assert ((covered >= -1e-12) & (covered <= 1 + 1e-12)).all()


def test_there_is_nothing_to_cover_without_an_object() -> None:
    assert compute_coverage(known([]), (0, 0, 1, 1), (2, 2)) is None


def test_mass_inside_is_weighted_by_coverage() -> None:
    maps, covered = np.array([[[1.0, 3.0]], [[0.0, 0.0]]]), np.array([[[0.5, 1.0]], [[1.0, 0.0]]])
    assert compute_object_mass(maps, covered).tolist() == [(0.5 + 3) / 4, 0.5]
