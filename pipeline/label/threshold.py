"""Thresholds above which foreground begins."""

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.policy import Threshold


def compute_threshold(values: NDArray[np.float32], threshold: Threshold) -> float:
    """Return the value above which, strictly, a heatmap is foreground.

    Args:
        values: float32 of any shape. Otsu's threshold (IEEE Trans. SMC 1979) is one of 256 levels of [0, 1].
        threshold: how it is computed.

    Raises:
        ValueError: the threshold has not been calibrated yet.
    """
    return threshold.scale * _compute_unscaled(values, threshold)


def _compute_unscaled(values: NDArray[np.float32], threshold: Threshold) -> float:
    if threshold.kind == "otsu":
        gray = np.clip(values * 255, 0, 255).astype(np.uint8)
        # Foreground is above the last gray level of the background, so above where the next one begins.
        level = (cv2.threshold(gray.reshape(1, -1), 0, 1, cv2.THRESH_OTSU)[0] + 1) / 255
        return float(np.nextafter(np.float32(level), np.float32(0)))  # so that 1 is foreground in any case
    if threshold.kind == "mean":
        return float(values.mean(dtype=np.float64))
    if threshold.value is None:
        raise ValueError(f"a {threshold.kind} threshold has no value yet")
    return float(np.percentile(values, threshold.value)) if threshold.kind == "percentile" else threshold.value
