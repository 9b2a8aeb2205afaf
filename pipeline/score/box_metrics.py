"""Box metrics of weakly supervised localization, exactly as Choe et al. define them.

Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020, and its journal version. Published numbers
depend on small choices of the authors' evaluator (truncation to 8 bits, a strict threshold, boxes that are one pixel
too wide, contours of holes), so these are kept; each is noted where it applies.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.image.iou import box_iou
from pipeline.image.score_map import SIDE
from pipeline.truth.truth import Boxes

HIT_IOUS = (0.3, 0.5, 0.7)
"""IoU with a true box from which a box is a hit."""
THRESHOLDS: NDArray[np.float64] = np.arange(0, 1, 0.001)
"""Thresholds of the reference."""
BOX_THRESHOLDS: NDArray[np.float64] = THRESHOLDS[np.unique((THRESHOLDS * 255).astype(np.int64), return_index=True)[1]]
"""The 255 thresholds that differ for boxes: a map in [0, 1] that reaches 1 is truncated to 8 bits, so many of
``THRESHOLDS`` give the same foreground. Of these, the first one."""


def largest_boxes(
    score: NDArray[np.float64], truth: Boxes, thresholds: NDArray[np.float64] = BOX_THRESHOLDS
) -> tuple[Boxes, NDArray[np.float64]]:
    """Return the box of the largest contour, and the largest IoU of any contour's box with any true box.

    Args:
        score: float [H, W] in [0, 1].
        truth: int [m, 4] on the same grid, m ≥ 1.
        thresholds: float [n], relative to the maximum of the map.

    Returns:
        int [n, 4] and float [n], at each of the thresholds.
    """
    gray = (score * 255).astype(np.uint8)  # truncated, not rounded
    levels = (thresholds * int(gray.max())).astype(np.int64)
    # Levels between the same two gray values of the map give the same foreground.
    _, first, inverse = np.unique(
        np.searchsorted(np.unique(gray), levels, side="right"), return_index=True, return_inverse=True
    )
    contours = [_find_contours(gray, int(level)) for level in levels[first]]
    boxes, areas = _measure_contours([contour for group in contours for contour in group], gray.shape)
    begins = np.cumsum([0, *map(len, contours)])
    largest = [begin + int(areas[begin:end].argmax()) for begin, end in pairwise(begins)]
    ious = box_iou(boxes, truth).max(1)
    return boxes[largest][inverse], np.maximum.reduceat(ious, begins[:-1])[inverse]


def contour_boxes(gray: NDArray[np.uint8], level: int) -> tuple[Boxes, int]:
    """Return the boxes of all contours above a level, and the index of the one with the largest area.

    Args:
        gray: uint8 [H, W].
        level: foreground is strictly above it.

    Returns:
        int [n, 4] as x0, y0, x1, y1 in the order of OpenCV, holes included, where x1 and y1 are one past
        the last pixel except at the border. [[0, 0, 0, 0]] if nothing is above the level. The largest is
        by polygon area, the first one on a tie.
    """
    boxes, areas = _measure_contours(_find_contours(gray, level), gray.shape)
    return boxes, int(areas.argmax())


_NO_CONTOUR: NDArray[np.int32] = np.full((1, 1, 2), -1, np.int32)
"""A contour left of and above every map, whose box is [0, 0, 0, 0]."""


def _find_contours(gray: NDArray[np.uint8], level: int) -> Sequence[NDArray[np.int32]]:
    _, foreground = cv2.threshold(gray, level, 1, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(foreground, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    return contours or (_NO_CONTOUR,)  # type: ignore[return-value]


def _measure_contours(
    contours: Sequence[NDArray[np.int32]], shape: tuple[int, ...]
) -> tuple[Boxes, NDArray[np.integer]]:
    """Return box and twice the polygon area of each: ``boundingRect`` and ``contourArea``, but faster for many."""
    points = np.concatenate(contours)[:, 0]
    begins = np.cumsum([0, *map(len, contours)])
    low, high = (extreme.reduceat(points, begins[:-1]) for extreme in (np.minimum, np.maximum))
    boxes = np.hstack([np.maximum(low, 0), np.minimum(high + 1, np.array(shape[::-1]) - 1)]).astype(np.int64)
    following = np.roll(points, -1, axis=0)
    following[begins[1:] - 1] = points[begins[:-1]]
    cross = points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]
    return boxes, np.abs(np.add.reduceat(cross, begins[:-1]))


def resize_boxes(boxes: Boxes, width: int, height: int) -> Boxes:
    """Return boxes on the 224 × 224 grid, truncated.

    Args:
        boxes: int [n, 4], in pixels of an image.
        width: of the image, in pixels.
        height: of the image, in pixels.
    """
    return (boxes * float(SIDE) / np.array([width, height] * 2)).astype(np.int64)  # in this order, as the reference
