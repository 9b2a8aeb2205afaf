"""The protocol to the letter: golden vectors of the reference evaluator, and what must hold of any."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.score.localization import (
    IOUS,
    SIDE,
    THRESHOLDS,
    BoxCounter,
    PixelCounter,
    boxes_at,
    iou,
    resize_boxes,
    resize_mask,
    score_map,
)

TAUS = (0, 0.25, 0.5, 0.75, 0.999)


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
    grey = (values * 255).astype(np.uint8)
    for tau, (largest, every) in zip(TAUS, expected, strict=True):
        boxes, place = boxes_at(grey, int(tau * grey.max()))
        assert boxes.tolist() == every
        assert boxes[place].tolist() == largest


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 0, 0), (0, 0, 0, 0), 1.0),
        ((0, 0, 9, 9), (5, 5, 14, 14), 0.142857),
        ((0, 0, 9, 9), (10, 0, 19, 9), 0.0),
        ((0, 0, 223, 223), (20, 30, 180, 200), 0.548689),
    ],
)
def test_iou_counts_both_ends(first: tuple, second: tuple, expected: float) -> None:
    assert iou(np.array([first]), np.array([second]))[0, 0] == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("box", [(5, 0, 4, 9), (0, 5, 9, 4), (-1, 0, 3, 3)])
def test_a_box_the_wrong_way_round_is_refused(box: tuple) -> None:
    with pytest.raises(ValueError, match="x0"):
        iou(np.array([box]), np.array([(0, 0, 1, 1)]))


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


def reference_counts(score: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The protocol written out: one pass for each of the thousand thresholds."""
    grey = (score * 255).astype(np.uint8)
    largest, every = np.zeros((3, 1000), int), np.zeros((3, 1000), int)
    for place, tau in enumerate(THRESHOLDS):
        _, cut = cv2.threshold(grey, int(tau * np.max(grey)), 255, cv2.THRESH_BINARY)
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
        for row, delta in enumerate(IOUS):
            largest[row, place] = iou(np.array([big]), truth).max() >= delta
            every[row, place] = iou(np.array(boxes), truth).max() >= delta
    return largest, every


@pytest.mark.parametrize("seed", range(3))
def test_fewer_cuts_give_the_curves_of_all_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, truth = score_map(rng.random((8, 8))), np.array([[40, 50, 150, 160], [10, 180, 60, 220]])
    counter = BoxCounter()
    counter.add(score, truth)
    largest, every = reference_counts(score, truth)
    assert np.array_equal(counter.largest, largest)
    assert np.array_equal(counter.any, every)
    assert (counter.any >= counter.largest).all()
    assert (np.diff(counter.any, axis=0) <= 0).all()


def disc(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_a_map_that_is_the_object_has_full_marks() -> None:
    mask = disc(90, 120, 40)
    boxes, pixels = BoxCounter(), PixelCounter()
    boxes.add(mask.astype(float), np.array([[50, 80, 130, 160]]))
    pixels.add(mask.astype(float), mask)
    assert (boxes.max_box_acc, boxes.max_box_acc_v2, boxes.by_iou) == (100, 100, (100, 100, 100))
    assert pixels.pxap == 100


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_pxap_of_a_constant_is_the_share_of_object_pixels(value: float) -> None:
    mask = disc(90, 120, 40)
    counter = PixelCounter()
    counter.add(np.full((SIDE, SIDE), value), mask)
    assert counter.pxap == pytest.approx(100 * mask.mean(), abs=1e-9)


def reference_pxap(scores: list[np.ndarray], masks: list[np.ndarray], ignores: list[np.ndarray]) -> float:
    """The reference's own steps with numpy.histogram."""
    edges = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])
    inside, outside = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for score, mask, ignore in zip(scores, masks, ignores, strict=True):
        inside += np.histogram(score[mask], edges)[0]
        outside += np.histogram(score[~mask & ~ignore], edges)[0]
    found, wrong = inside[::-1].cumsum(), outside[::-1].cumsum()
    some = (found + wrong) > 0
    precision, recall = found[some] / (found + wrong)[some], found[some] / inside.sum()
    return float(100 * (precision[1:] * np.diff(recall)).sum() + 100 * precision[0] * recall[0])


def test_pxap_equals_the_reference_and_drops_what_is_to_be_ignored() -> None:
    rng = np.random.default_rng(0)
    scores = [score_map(rng.random((7, 7))) for _ in range(4)]
    masks = [disc(int(rng.integers(60, 160)), 100, 45) for _ in range(4)]
    ignores = [disc(20, 20, 60), np.zeros((SIDE, SIDE), bool), disc(200, 10, 30), disc(100, 100, 90)]
    counter = PixelCounter()
    for score, mask, ignore in zip(scores, masks, ignores, strict=True):
        counter.add(score, mask, ignore)
    assert counter.pxap == pytest.approx(reference_pxap(scores, masks, ignores), abs=1e-9)


def test_pxap_without_an_object_is_an_error() -> None:
    counter = PixelCounter()
    counter.add(np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE), bool))
    with pytest.raises(ValueError, match="no object pixel"):
        _ = counter.pxap


def test_counters_add_over_any_split() -> None:
    rng = np.random.default_rng(1)
    cases = [(score_map(rng.random((5, 5))), disc(100, int(rng.integers(50, 170)), 40)) for _ in range(6)]

    def count(part: list) -> tuple[BoxCounter, PixelCounter]:
        boxes, pixels = BoxCounter(), PixelCounter()
        for score, mask in part:
            boxes.add(score, np.array([[60, 60, 140, 140]]))
            pixels.add(score, mask)
        return boxes, pixels

    whole = count(cases)
    for cut in (0, 1, 4, 6):
        first, second = count(cases[:cut]), count(cases[cut:])
        assert np.array_equal((first[0] + second[0]).any, whole[0].any)
        assert (first[0] + second[0]).images == 6
        assert (first[1] + second[1]).pxap == whole[1].pxap


@settings(max_examples=30, deadline=None)
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


def test_what_the_network_did_not_see_has_the_least_value() -> None:
    values = np.arange(16.0).reshape(4, 4)
    score = score_map(values, (0.25, 0.0, 0.75, 1.0))
    assert not score[:, :56].any()
    assert not score[:, 168:].any()
    assert score[:, 56:168].max() == 1


def test_masks_are_resized_by_the_nearest_pixel() -> None:
    mask = np.zeros((10, 20), bool)
    mask[5:, 10:] = True
    resized = resize_mask(mask)
    assert resized.dtype == bool
    assert np.array_equal(np.argwhere(resized).min(0), [112, 112])
