"""Intersection over union of boxes and of masks."""

import numpy as np
import pytest

from pipeline.image.iou import box_iou, mask_iou


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 0, 0), (0, 0, 0, 0), 1.0),
        ((0, 0, 9, 9), (5, 5, 14, 14), 0.142857),
        ((0, 0, 9, 9), (10, 0, 19, 9), 0.0),
        ((0, 0, 223, 223), (20, 30, 180, 200), 0.548689),
    ],
)
def test_box_iou_includes_both_ends(first: tuple, second: tuple, expected: float) -> None:
    assert box_iou(np.array([first]), np.array([second]))[0, 0] == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("box", [(5, 0, 4, 9), (0, 5, 9, 4), (-1, 0, 3, 3)])
def test_a_box_with_swapped_ends_or_a_negative_coordinate_is_refused(box: tuple) -> None:
    with pytest.raises(ValueError, match="x0"):
        box_iou(np.array([box]), np.array([(0, 0, 1, 1)]))


def test_mask_iou_of_all_pixels_and_along_an_axis() -> None:
    first, second = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]], bool), np.array([[0, 1, 1], [0, 0, 0], [0, 0, 0]], bool)
    assert mask_iou(first, second) == 1 / 4
    assert mask_iou(first, second, axis=1).tolist() == [1 / 3, 1, 0]
    assert mask_iou(first[1], second[1], empty=0.0) == 0
