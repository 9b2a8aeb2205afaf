"""Boxes of weakly supervised localization as Choe et al. define them, to the letter.

Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020, and its journal version. Numbers
of papers depend on small choices of the authors' evaluator (truncation to 8 bits, a strict cut, boxes that
are one pixel too wide, contours of holes), so these are kept; each is named where it stands.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.image.iou import box_iou
from pipeline.image.score_map import SIDE

IOUS = (0.3, 0.5, 0.7)
TAUS: NDArray[np.float64] = np.arange(0, 1, 0.001)
"""Thresholds of the reference."""
LEVELS: NDArray[np.int64] = np.unique((TAUS * 255).astype(np.int64), return_index=True)[1]
"""First threshold of each cut. A map in [0, 1] that reaches 1 has 8 bits, so the thousand are 255 cuts of it."""

Boxes = NDArray[np.int64]


def overlaps(score: NDArray[np.float64], truth: Boxes) -> NDArray[np.float64]:
    """Largest IoU with any true box, of the largest contour's box and of all contours' boxes, at each cut.

    Args:
        score: float [H, W] in [0, 1].
        truth: int [m, 4] on the same grid, m ≥ 1.

    Returns:
        float [2, 255]; the threshold of a cut is ``TAUS[LEVELS]``, relative to the maximum.
    """
    grey = (score * 255).astype(np.uint8)  # truncated, not rounded
    cuts = (TAUS[LEVELS] * int(grey.max())).astype(np.int64)
    # Cuts between two levels of grey that both are above the same level have the same foreground.
    _, first, inverse = np.unique(
        np.searchsorted(np.unique(grey), cuts, side="right"), return_index=True, return_inverse=True
    )
    found = [_outlines(grey, int(cut)) for cut in cuts[first]]
    boxes, areas = _measure([each for outlines in found for each in outlines], grey.shape)
    begins = np.cumsum([0, *map(len, found)])
    largest = [begin + int(areas[begin:end].argmax()) for begin, end in pairwise(begins)]
    best = box_iou(boxes, truth).max(1)
    result: NDArray[np.float64] = np.stack([best[largest], np.maximum.reduceat(best, begins[:-1])])[:, inverse]
    return result


def boxes_at(grey: NDArray[np.uint8], cut: int) -> tuple[Boxes, int]:
    """Boxes of all contours above a cut, and which of them has the largest area.

    Args:
        grey: uint8 [H, W].
        cut: foreground is strictly above it.

    Returns:
        int [n, 4] as x0, y0, x1, y1 in the order of OpenCV, holes included, where x1 and y1 are one past
        the last pixel except at the border. [[0, 0, 0, 0]] where nothing is above the cut. The largest is
        by polygon area, the first one on a tie.
    """
    boxes, areas = _measure(_outlines(grey, cut), grey.shape)
    return boxes, int(areas.argmax())


_NOTHING: NDArray[np.int32] = np.full((1, 1, 2), -1, np.int32)
"""An outline left and above of every picture, whose box is [0, 0, 0, 0]."""


def _outlines(grey: NDArray[np.uint8], cut: int) -> Sequence[NDArray[np.int32]]:
    _, foreground = cv2.threshold(grey, cut, 1, cv2.THRESH_BINARY)
    outlines, _ = cv2.findContours(foreground, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    return outlines or (_NOTHING,)  # type: ignore[return-value]


def _measure(outlines: Sequence[NDArray[np.int32]], shape: tuple[int, ...]) -> tuple[Boxes, NDArray[np.integer]]:
    """Box and twice the polygon area of each, all at once: as ``boundingRect`` and ``contourArea``, but faster."""
    points = np.concatenate(outlines)[:, 0]
    begins = np.cumsum([0, *map(len, outlines)])
    low, high = (extreme.reduceat(points, begins[:-1]) for extreme in (np.minimum, np.maximum))
    boxes = np.hstack([np.maximum(low, 0), np.minimum(high + 1, np.array(shape[::-1]) - 1)]).astype(np.int64)
    following = np.roll(points, -1, axis=0)
    following[begins[1:] - 1] = points[begins[:-1]]
    cross = points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]
    return boxes, np.abs(np.add.reduceat(cross, begins[:-1]))


def resize_boxes(boxes: Boxes, width: int, height: int) -> Boxes:
    """Boxes [n, 4] of a picture of this size on the 224 × 224 grid, truncated."""
    return (boxes * float(SIDE) / np.array([width, height] * 2)).astype(np.int64)  # in this order, as the reference
