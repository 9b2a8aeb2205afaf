"""Intersection over union of boxes and of masks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def box_iou(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU of each pair of boxes, float [n, m].

    Args:
        first: int [n, 4], as x0, y0, x1, y1 in pixels, ends inclusive.
        second: int [m, 4], the same.

    Raises:
        ValueError: a box ends before it begins, or has a negative coordinate.
    """
    for boxes in (first, second):
        if (boxes < 0).any() or (boxes[:, 2:] < boxes[:, :2]).any():
            raise ValueError("boxes must be x0, y0, x1, y1 with 0 ≤ x0 ≤ x1 and 0 ≤ y0 ≤ y1")
    shared, area, other_area = box_intersection(first, second)
    return shared / (area[:, None] + other_area - shared)


def box_intersection(
    first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the area that each pair of boxes shares, int [n, m], and the areas of the boxes, int [n] and int [m].

    Args:
        first: int [n, 4], as x0, y0, x1, y1 in pixels, ends inclusive.
        second: int [m, 4], the same.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    area, other_area = ((boxes[:, 2:] - boxes[:, :2] + 1).prod(1) for boxes in (first, second))
    return np.clip(high - low + 1, 0, None).prod(2), area, other_area


def mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_], axis: int | None = None, empty: float = 1.0) -> Any:
    """Return the IoU of two masks: a number, or float [...] along an axis.

    Args:
        first: bool [...].
        second: bool [...], the same shape.
        axis: to sum over; None is all.
        empty: value where both masks are empty.
    """
    shared, union = (first & second).sum(axis), (first | second).sum(axis)
    return np.where(union, shared, empty) / np.where(union, union, 1)
