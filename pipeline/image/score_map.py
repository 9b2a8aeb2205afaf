"""A map as evaluators of localization take it: 224 × 224, in [0, 1]."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 224
"""Width and height at which maps, boxes and masks are compared."""

Window = tuple[float, float, float, float]
"""Part of a picture, as fractions of its width and height: x0, y0, x1, y1."""


def score_map(values: NDArray[np.floating], window: Window = (0, 0, 1, 1)) -> NDArray[np.float64]:
    """A map as the protocol of Choe et al. (CVPR 2020) has it: cubic resize first, then min–max.

    Args:
        values: float [h, w], any scale.
        window: the part of the picture that it is of. The rest, which the network did not see, gets the least value
            of the map.

    Returns:
        float64 [224, 224] in [0, 1]; all 0 where the map has a NaN or is constant.
    """
    return placed(values, window, cv2.INTER_CUBIC)


def placed(values: NDArray[np.floating], window: Window, interpolation: int) -> NDArray[np.float64]:
    """A map where it lies in the square, as ``score_map``, by any interpolation of OpenCV."""
    x0, y0, x1, y1 = (round(SIDE * min(1, max(0, edge))) for edge in window)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)  # of a picture many times longer than wide
    resized = cv2.resize(values.astype(np.float64), (x1 - x0, y1 - y0), interpolation=interpolation)
    low, high = resized.min(), resized.max()
    scaled = np.zeros((SIDE, SIDE))
    if np.isfinite(high - low) and high > low and np.ptp(values) > 0:  # cubic resize may leave a trace of a constant
        scaled[y0:y1, x0:x1] = (resized - low) / (high - low)
    return scaled


def window(sample: dict[str, Any], frame: tuple[int, int]) -> Window:
    """What the network saw of a picture.

    Args:
        sample: its row of the sample table.
        frame: height and width of the network's input, in pixels.
    """
    height, width = frame
    x0, y0 = sample["offset_x"] / sample["width"], sample["offset_y"] / sample["height"]
    x1 = x0 + sample["scale_x"] * width / sample["width"]
    y1 = y0 + sample["scale_y"] * height / sample["height"]
    return x0, y0, x1, y1
