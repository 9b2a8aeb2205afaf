"""Weakly supervised localization as Choe et al. define it: MaxBoxAcc, MaxBoxAccV2, PxAP.

Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020, and its journal version. Numbers
of papers depend on small choices of the authors' evaluator (truncation to 8 bits, a strict cut, boxes that
are one pixel too wide, contours of holes), so these are kept to the letter; each is named where it stands.

All that is accumulated are integer counters, so shards are scored apart and added.
"""

from dataclasses import dataclass, field
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 224
"""Maps, boxes and masks are compared at this width and height."""
IOUS = (0.3, 0.5, 0.7)
THRESHOLDS: NDArray[np.float64] = np.arange(0, 1, 0.001)
_EDGES = np.append(THRESHOLDS, [1.0, 2.0, 3.0])

Boxes = NDArray[np.int64]


def score_map(
    values: NDArray[np.floating], window: tuple[float, float, float, float] = (0, 0, 1, 1)
) -> NDArray[np.float64]:
    """A map as the protocol has it: cubic resize first, then min–max.

    Args:
        values: float [h, w], any scale.
        window: the part of the picture that it is of, as fractions x0, y0, x1, y1. The rest, which the
            network did not see, gets the least value of the map.

    Returns:
        float64 [224, 224] in [0, 1]; all 0 where the map has a NaN or is constant.
    """
    x0, y0, x1, y1 = (round(SIDE * min(1, max(0, edge))) for edge in window)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)  # of a picture many times longer than wide
    resized = cv2.resize(values.astype(np.float64), (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)
    low, high = resized.min(), resized.max()
    scaled = np.zeros((SIDE, SIDE))
    if np.isfinite(high - low) and np.ptp(values) > 0:
        scaled[y0:y1, x0:x1] = (resized - low) / (high - low)
    return scaled


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
    foreground = (grey > cut).astype(np.uint8)
    contours, _ = cv2.findContours(foreground, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return np.zeros((1, 4), np.int64), 0
    boxes = np.array([cv2.boundingRect(contour) for contour in contours], np.int64)
    boxes[:, 2:] = np.minimum(boxes[:, :2] + boxes[:, 2:], np.array(grey.shape[::-1]) - 1)
    return boxes, int(np.argmax([cv2.contourArea(contour) for contour in contours]))


def iou(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Intersection over union of boxes [n, 4] and [m, 4], whose ends are inclusive: [n, m].

    Raises:
        ValueError: a box ends before it begins, or lies left or above of the picture.
    """
    for boxes in (first, second):
        if (boxes < 0).any() or (boxes[:, 2:] < boxes[:, :2]).any():
            raise ValueError("boxes must be x0, y0, x1, y1 with 0 ≤ x0 ≤ x1 and 0 ≤ y0 ≤ y1")
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low + 1, 0, None).prod(2)
    area = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(1) for boxes in (first, second)]
    union: NDArray[np.float64] = area[0][:, None] + area[1][None, :] - shared
    return shared / union


def resize_boxes(boxes: Boxes, width: int, height: int) -> Boxes:
    """Boxes [n, 4] of a picture of this size on the 224 × 224 grid, truncated."""
    factor = np.array([SIDE / width, SIDE / height] * 2)
    return (boxes * factor).astype(np.int64)


def resize_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask [H, W] on the 224 × 224 grid, nearest pixel."""
    resized = cv2.resize(mask.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    return resized.astype(bool)


@dataclass
class BoxCounter:
    """How many images have a good box at each threshold; sums over any split of the images.

    Attributes:
        images: how many were counted.
        largest, any: int [δ, τ], images where the largest contour's box (or the box of any contour) has
            an IoU of at least δ with a true box at threshold τ.
    """

    images: int = 0
    largest: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(IOUS), len(THRESHOLDS)), np.int64))
    any: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(IOUS), len(THRESHOLDS)), np.int64))

    def add(self, score: NDArray[np.float64], truth: Boxes) -> None:
        """Count an image.

        Args:
            score: float [224, 224] in [0, 1].
            truth: int [m, 4], the true boxes on the same grid, m ≥ 1.
        """
        grey = (score * 255).astype(np.uint8)  # truncated, not rounded
        cuts, inverse = np.unique((THRESHOLDS * int(grey.max())).astype(np.int64), return_inverse=True)
        best = np.empty((2, len(cuts)))
        for place, cut in enumerate(cuts):  # thresholds outnumber the cuts of 8 bits about four to one
            boxes, largest = boxes_at(grey, int(cut))
            overlap = iou(boxes, truth).max(1)
            best[:, place] = overlap[largest], overlap.max()
        hits = best[:, None, inverse] >= np.array(IOUS)[None, :, None]
        self.largest += hits[0]
        self.any += hits[1]
        self.images += 1

    def __add__(self, other: Self) -> "BoxCounter":
        return BoxCounter(self.images + other.images, self.largest + other.largest, self.any + other.any)

    @property
    def max_box_acc(self) -> float:
        """MaxBoxAcc in %: largest contour, IoU 0.5, best threshold on these very images."""
        return float(100 * self.largest[IOUS.index(0.5)].max() / self.images)

    @property
    def max_box_acc_v2(self) -> float:
        """MaxBoxAccV2 in %: any contour, mean over the IoUs of the best threshold for each."""
        return float(100 * self.any.max(1).mean() / self.images)

    @property
    def by_iou(self) -> tuple[float, ...]:
        """The three terms of ``max_box_acc_v2``."""
        return tuple(float(100 * best / self.images) for best in self.any.max(1))


@dataclass
class PixelCounter:
    """Histograms of the scores of object and background pixels; sums over any split of the images."""

    inside: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(_EDGES) - 1, np.int64))
    outside: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(_EDGES) - 1, np.int64))

    def add(self, score: NDArray[np.float64], mask: NDArray[np.bool_], ignore: NDArray[np.bool_] | None = None) -> None:
        """Count an image.

        Args:
            score: float [224, 224] in [0, 1].
            mask: bool [224, 224], union of the objects.
            ignore: bool [224, 224], pixels that do not count where they are not in the mask.
        """
        bins = np.searchsorted(_EDGES, score, side="right") - 1
        background = ~mask if ignore is None else ~mask & ~ignore
        self.inside += np.bincount(bins[mask], minlength=len(self.inside))
        self.outside += np.bincount(bins[background], minlength=len(self.outside))

    def __add__(self, other: Self) -> "PixelCounter":
        return PixelCounter(self.inside + other.inside, self.outside + other.outside)

    @property
    def pxap(self) -> float:
        """PxAP in %: area under precision over recall, as a sum of right rectangles.

        Raises:
            ValueError: no image has an object pixel.
        """
        found, wrong = self.inside[::-1].cumsum(), self.outside[::-1].cumsum()
        if not found[-1]:
            raise ValueError("no object pixel in any image")
        precision = found / np.maximum(found + wrong, 1)
        return float(100 * (precision * np.diff(found / found[-1], prepend=0)).sum())
