"""ImageNet-Segmentation as Chefer et al. measure it (Transformer Interpretability Beyond Attention, CVPR 2021).

A map is enlarged linearly and stretched to [0, 1]; what is above its own mean is object.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.image.score_map import Window, placed

_STEPS = 2**16 - 1

Mask = NDArray[np.bool_]


def linear_map(values: NDArray[np.floating], window: Window = (0, 0, 1, 1)) -> NDArray[np.float64]:
    """A map as their protocol has it: bilinear resize, then min–max. The rest as ``score_map``."""
    return placed(values, window, cv2.INTER_LINEAR)


def areas(score: NDArray[np.float64], mask: Mask, ignore: Mask) -> NDArray[np.int64]:
    """Pixels of one picture: int [2, 2], of truth (background, object) by prediction (background, object)."""
    predicted = score > score.mean()
    counted = mask | ~ignore
    return np.bincount((2 * mask + predicted)[counted], minlength=4).reshape(2, 2)


def accuracy(counts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pixel accuracy in % from sums of ``areas`` [..., 2, 2]: [...]."""
    with np.errstate(invalid="ignore"):
        return 100 * np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))


def mean_iou(counts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean IoU of background and object in % from sums of ``areas`` [..., 2, 2]: [...]."""
    shared = np.diagonal(counts, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return 100 * (shared / (counts.sum(-1) + counts.sum(-2) - shared)).mean(-1)


def f1(counts: NDArray[np.int64]) -> float:
    """F1 of the object of one picture from its ``areas``, in [0, 1]; 0 where nothing is right."""
    return float(2 * counts[1, 1] / max(1, counts[1].sum() + counts[:, 1].sum()))


def average_precision(score: NDArray[np.float64], mask: Mask, ignore: Mask) -> float:
    """AP of one picture, in [0, 1], over [1 − s, s] against [background, object]: each pixel counts twice.

    Scores are rounded to 16 bits, finer than the maps are stored. A map that says nothing scores 0 for both, as it
    does there: 0.5.
    """
    if not score.any():
        return 0.5
    counted = mask | ~ignore
    place = np.rint(score * _STEPS).astype(np.int64) + (_STEPS + 1) * mask
    outside, inside = np.bincount(place[counted], minlength=2 * (_STEPS + 1)).reshape(2, -1)
    right = (inside[::-1] + outside).astype(np.float64)  # from the highest score down
    wrong = outside[::-1] + inside
    found = right.cumsum()
    return float((right * found / np.maximum(found + wrong.cumsum(), 1)).sum() / max(1, found[-1]))
