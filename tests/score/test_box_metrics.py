"""The protocol to the letter: golden vectors of the reference evaluator, and what must hold of any."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import examples

from pipeline.image.iou import box_iou
from pipeline.image.score_map import SIDE, score_map
from pipeline.score.box_metrics import BOX_THRESHOLDS, HIT_IOUS, THRESHOLDS, contour_boxes, largest_boxes, resize_boxes

GOLDEN_THRESHOLDS = (0, 0.25, 0.5, 0.75, 0.999)


def small(*cells: tuple[int, int, float]) -> np.ndarray:
    """6 rows × 7 columns, 0 but for the cells."""
    values = np.zeros((6, 7))
    for row, column, value in cells:
        values[row, column] = value
    return values


def block(rows: range, columns: range, value: float = 1.0) -> list[tuple[int, int, float]]:
    return [(row, column, value) for row in rows for column in columns]


RING = [cell for cell in block(range(5), range(1, 6)) if cell[:2] != (2, 3)]
HALF = [*block(range(1, 3), range(1, 3), 0.5), (4, 5, 1.0)]
ALMOST = [*block(range(1, 3), range(1, 3), 0.4999), (4, 5, 0.6)]
ONE, FAR = [1, 1, 3, 3], [5, 4, 6, 5]

# map → at each τ: the box of the largest contour, boxes of all contours in the order of OpenCV
GOLDEN = {
    "nothing": (small(), [([0, 0, 0, 0], [[0, 0, 0, 0]])] * 5),
    "everything": (np.ones((6, 7)), [([0, 0, 6, 5], [[0, 0, 6, 5]])] * 5),
    "a pixel": (small((2, 3, 1)), [([3, 2, 4, 3], [[3, 2, 4, 3]])] * 5),
    "a tie of zero areas": (small((1, 1, 1), (2, 2, 1), (4, 5, 1)), [(FAR, [FAR, ONE])] * 5),
    "a hole": (small(*RING), [([1, 0, 6, 5], [[1, 0, 6, 5], [2, 1, 5, 4]])] * 5),
    "at the border": (small(*block(range(3, 6), range(4, 7))), [([4, 3, 6, 5], [[4, 3, 6, 5]])] * 5),
    "two squares": (
        small(*block(range(2), range(2)), *block(range(4, 6), range(4, 6))),
        [([4, 4, 6, 5], [[4, 4, 6, 5], [0, 0, 2, 2]])] * 5,
    ),
    "a line and a square": (
        small(*block(range(1), range(6)), *block(range(2, 5), range(2, 5))),
        [([2, 2, 5, 5], [[2, 2, 5, 5], [0, 0, 6, 1]])] * 5,
    ),
    "the cut is strict and truncated": (small(*HALF), [(ONE, [FAR, ONE])] * 2 + [(FAR, [FAR])] * 3),
    "the cut is relative to the maximum": (small(*ALMOST), [(ONE, [FAR, ONE])] * 4 + [(FAR, [FAR])]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_boxes_are_those_of_the_reference(name: str) -> None:
    values, expected = GOLDEN[name]
    gray = (values * 255).astype(np.uint8)
    for threshold, (largest, any_contour) in zip(GOLDEN_THRESHOLDS, expected, strict=True):
        boxes, place = contour_boxes(gray, int(threshold * gray.max()))
        assert boxes.tolist() == any_contour
        assert boxes[place].tolist() == largest


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        ((111, 108, 441, 193), (500, 375), [49, 64, 197, 115]),
        ((0, 0, 499, 374), (500, 375), [0, 0, 223, 223]),
        ((10, 10, 11, 11), (1000, 1000), [2, 2, 2, 2]),
    ],
)
def test_true_boxes_are_truncated(box: tuple, size: tuple[int, int], expected: list[int]) -> None:
    assert resize_boxes(np.array([box]), *size)[0].tolist() == expected


@pytest.mark.parametrize("side", [80, 333, 500, 640, 1280])
def test_an_edge_that_falls_on_a_whole_pixel_stays_there(side: int) -> None:
    """The reference multiplies before it divides, so that 180 of 640 is 63; by a factor that is rounded it is 62."""
    corners = np.arange(side)
    resized = resize_boxes(np.stack([corners] * 4, 1), side, side)
    assert np.array_equal(resized, np.stack([corners * SIDE // side] * 4, 1))


def reference_counts(score: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The protocol written out: one pass for each of the thousand thresholds."""
    gray = (score * 255).astype(np.uint8)
    largest, any_contour = np.zeros((3, 1000), int), np.zeros((3, 1000), int)
    for place, threshold in enumerate(THRESHOLDS):
        _, cut = cv2.threshold(gray, int(threshold * np.max(gray)), 255, cv2.THRESH_BINARY)
        contours = cv2.findContours(cut, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        if contours:
            boxes = []
            for contour in contours:
                x, y, w, h = cv2.boundingRect(contour)
                boxes.append((x, y, min(x + w, 223), min(y + h, 223)))
            big = boxes[contours.index(max(contours, key=cv2.contourArea)) if len(contours) == 1 else max(
                range(len(contours)), key=lambda i: cv2.contourArea(contours[i])
            )]  # fmt: skip
        else:
            boxes, big = [(0, 0, 0, 0)], (0, 0, 0, 0)
        for row, delta in enumerate(HIT_IOUS):
            largest[row, place] = box_iou(np.array([big]), truth).max() >= delta
            any_contour[row, place] = box_iou(np.array(boxes), truth).max() >= delta
    return np.stack([largest, any_contour]).astype(bool)


OBJECTS = np.array([[40, 50, 150, 160], [10, 180, 60, 220]])


def best_ious(score: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of the largest contour and of any contour, at each of the 255 thresholds."""
    largest, any_ious = largest_boxes(score, truth)
    return np.stack([box_iou(largest, truth).max(1), any_ious])


CUT_OF = (THRESHOLDS * 255).astype(int)


@pytest.mark.parametrize("seed", range(3))
def test_a_pass_for_each_cut_gives_the_curves_of_all_thresholds(seed: int) -> None:
    score = score_map(np.random.default_rng(seed).random((8, 8)))
    best = best_ious(score, OBJECTS)
    hits = best[:, None, CUT_OF] >= np.array(HIT_IOUS)[:, None]
    assert np.array_equal(hits, reference_counts(score, OBJECTS))
    assert (best[1] >= best[0]).all()


@pytest.mark.parametrize(
    "score",
    [
        np.zeros((SIDE, SIDE)),
        np.pad(np.ones((90, 100)), 62)[:SIDE, :SIDE],
        np.indices((SIDE, SIDE)).sum(0) // 9 % 2 * 1.0,
    ],
    ids=["nothing", "a rectangle", "stripes"],
)
def test_maps_of_few_levels_have_the_curves_of_the_reference(score: np.ndarray) -> None:
    hits = best_ious(score, OBJECTS)[:, None, CUT_OF] >= np.array(HIT_IOUS)[:, None]
    assert np.array_equal(hits, reference_counts(score, OBJECTS))


def test_some_thresholds_have_the_boxes_that_they_have_among_all() -> None:
    score = score_map(np.random.default_rng(3).random((8, 8)))
    some = [200, 3, 51, 51]
    boxes, ious = largest_boxes(score, OBJECTS, BOX_THRESHOLDS[some])
    all_boxes, all_ious = largest_boxes(score, OBJECTS)
    assert np.array_equal(boxes, all_boxes[some])
    assert np.array_equal(ious, all_ious[some])


def test_every_threshold_has_its_cut() -> None:
    assert np.array_equal((BOX_THRESHOLDS * 255).astype(int), np.arange(255))
    assert set(CUT_OF) == set(range(255))


@examples(20)
@given(arrays(np.float64, (5, 5), elements=st.floats(0, 1)), st.floats(0.01, 100), st.floats(-50, 50))
def test_boxes_do_not_depend_on_scale_and_offset_of_a_map(values: np.ndarray, scale: float, offset: float) -> None:
    if np.ptp(values) < 1e-3:
        return
    first, second = (score_map(scaled) for scaled in (values, values * scale + offset))
    same = (first * 255).astype(np.uint8) == (second * 255).astype(np.uint8)
    if same.all():  # up to the 8 bits
        assert np.array_equal(best_ious(first, OBJECTS), best_ious(second, OBJECTS))
    else:
        assert same.mean() > 0.99


@examples(30)
@given(arrays(np.float64, (6, 5), elements=st.floats(0, 1)), st.floats(0.01, 100), st.floats(-50, 50))
def test_a_score_map_does_not_depend_on_scale_and_offset(values: np.ndarray, scale: float, offset: float) -> None:
    if np.ptp(values) < 1e-3:
        return
    first, second = score_map(values), score_map(values * scale + offset)
    assert (first.min(), first.max()) == (0, 1)
    assert np.abs(first - second).max() < 1e-6


@pytest.mark.parametrize("values", [np.full((4, 4), 0.3), np.full((4, 4), np.nan), np.diag([1, 2, np.inf, 3.0])])
def test_a_map_without_contrast_or_with_nan_is_zero(values: np.ndarray) -> None:
    assert not score_map(values).any()


def test_a_map_that_varies_across_a_window_of_one_pixel_says_nothing() -> None:
    """Of an image many times longer than wide, cut to a square."""
    assert not score_map(np.tile([0.0, 1, 2, 3], (4, 1)), (0.5, 0, 0.501, 1)).any()


def test_what_the_network_did_not_see_has_the_least_value() -> None:
    values = np.arange(16.0).reshape(4, 4)
    score = score_map(values, (0.25, 0.0, 0.75, 1.0))
    assert not score[:, :56].any()
    assert not score[:, 168:].any()
    assert score[:, 56:168].max() == 1
