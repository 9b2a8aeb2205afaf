"""ImageNet-Segmentation as Chefer et al. measure it (Transformer Interpretability Beyond Attention, CVPR 2021).

A map is resized bilinearly and scaled to [0, 1]; pixels above its own mean are object.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.image.score_map import Window, resize_into_window
from pipeline.truth.truth import Mask

_STEPS = 2**16 - 1


def linear_map(values: NDArray[Any], window: Window = (0, 0, 1, 1)) -> NDArray[np.float64]:
    """Return a map resized bilinearly, then scaled from min to max; otherwise as ``score_map``.

    Args:
        values: float [h, w], any scale; or a mask, bool [h, w].
        window: part of the image that the map covers.

    Returns:
        float [224, 224] in [0, 1].
    """
    return resize_into_window(values, window, cv2.INTER_LINEAR)


def confusion(score: NDArray[np.float64], mask: Mask, ignore: Mask) -> NDArray[np.int64]:
    """Return the confusion matrix of the pixels of one image.

    Args:
        score: float [224, 224] in [0, 1].
        mask: bool [224, 224], union of the objects.
        ignore: bool [224, 224], pixels that do not count unless they are in the mask.

    Returns:
        int [2, 2], truth (background, object) by prediction (background, object).
    """
    predicted = score > score.mean()
    counted = mask | ~ignore
    return np.bincount((2 * mask + predicted)[counted], minlength=4).reshape(2, 2)


def pixel_accuracy(counts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute pixel accuracy in % from sums of ``confusion`` [..., 2, 2]: [...]."""
    with np.errstate(invalid="ignore"):
        return 100 * np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))


def mean_iou(counts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the mean IoU of background and object in % from sums of ``confusion`` [..., 2, 2]: [...]."""
    shared = np.diagonal(counts, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return 100 * (shared / (counts.sum(-1) + counts.sum(-2) - shared)).mean(-1)


def f1(counts: NDArray[np.int64]) -> float:
    """Compute F1 of the object of one image from its ``confusion`` [2, 2], in [0, 1]; 0 without a hit."""
    return float(2 * counts[1, 1] / max(1, counts[1].sum() + counts[:, 1].sum()))


def average_precision(score: NDArray[np.float64], mask: Mask, ignore: Mask) -> float:
    """Compute AP of one image, in [0, 1], of [1 − s, s] against [background, object]: each pixel counts twice.

    Scores are rounded to 16 bits, finer than maps are stored. A map of zeros scores 0 for both classes, as in the
    reference: 0.5.

    Args:
        score: float [224, 224] in [0, 1].
        mask: bool [224, 224], union of the objects.
        ignore: bool [224, 224], pixels that do not count unless they are in the mask.
    """
    if not score.any():
        return 0.5
    counted = mask | ~ignore
    bins = np.rint(score * _STEPS).astype(np.int64) + (_STEPS + 1) * mask
    outside, inside = np.bincount(bins[counted], minlength=2 * (_STEPS + 1)).reshape(2, -1)
    positives = (inside[::-1] + outside).astype(np.float64)  # from the highest score down
    negatives = outside[::-1] + inside
    hits = positives.cumsum()
    return float((positives * hits / np.maximum(hits + negatives.cumsum(), 1)).sum() / max(1, hits[-1]))
