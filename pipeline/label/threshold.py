"""Where foreground begins."""

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.policy import Threshold


def threshold(values: NDArray[np.float32], cut: Threshold) -> float:
    """The threshold of a cut on a map; foreground is strictly above it.

    Args:
        values: float32 of any shape. Otsu's threshold (IEEE SMC 1979) is sought among 256 levels of [0, 1].

    Raises:
        ValueError: the cut is still to be calibrated.
    """
    return cut.scale * _threshold(values, cut)


def _threshold(values: NDArray[np.float32], cut: Threshold) -> float:
    if cut.kind == "otsu":
        grey = np.clip(values * 255, 0, 255).astype(np.uint8)
        # Foreground is above the last grey level of the background, so above where the next one begins.
        level = (cv2.threshold(grey.reshape(1, -1), 0, 1, cv2.THRESH_OTSU)[0] + 1) / 255
        return float(np.nextafter(np.float32(level), np.float32(0)))  # what is 1 is above, whatever lies below
    if cut.kind == "mean":
        return float(values.mean(dtype=np.float64))
    if cut.value is None:
        raise ValueError(f"a {cut.kind} cut has no threshold yet")
    return float(np.percentile(values, cut.value)) if cut.kind == "percentile" else cut.value
