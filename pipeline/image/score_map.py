"""Score maps of the localization protocol: 224 × 224, in [0, 1]."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 224
"""Width and height at which maps, boxes and masks are compared."""

Window = tuple[float, float, float, float]
"""Part of an image, as fractions of its width and height: x0, y0, x1, y1."""


def score_map(values: NDArray[Any], window: Window = (0, 0, 1, 1)) -> NDArray[np.float64]:
    """Compute the score map of Choe et al. (CVPR 2020): cubic resize first, then min–max.

    A mask is resized by nearest pixel, as masks of the truth are, and has no scale: one that is True everywhere is 1.

    Args:
        values: float [h, w], any scale; or a mask, bool [h, w].
        window: the part of the image that the map covers. The rest, which the network did not see, gets the minimum
            of the map.

    Returns:
        float64 [224, 224] in [0, 1]; all 0 if the map has a NaN or is constant.
    """
    return resize_into_window(values, window, cv2.INTER_CUBIC)


def resize_into_window(values: NDArray[Any], window: Window, interpolation: int) -> NDArray[np.float64]:
    """Compute a score map with any interpolation.

    Args:
        values: float [h, w], any scale; or a mask, bool [h, w].
        window: the part of the image that the map covers.
        interpolation: constant of OpenCV, for maps.

    Returns:
        As ``score_map``.
    """
    x0, y0, x1, y1 = (round(SIDE * min(1, max(0, edge))) for edge in window)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)  # an image may be many times longer than wide
    scaled = np.zeros((SIDE, SIDE))
    if values.dtype == bool:
        nearest = cv2.resize(values.astype(np.uint8), (x1 - x0, y1 - y0), interpolation=cv2.INTER_NEAREST)
        scaled[y0:y1, x0:x1] = nearest
        return scaled
    resized = cv2.resize(values.astype(np.float64), (x1 - x0, y1 - y0), interpolation=interpolation)
    low, high = resized.min(), resized.max()
    # A value that is not finite counts wherever it is: a reduction does not read every pixel.
    if np.isfinite(values).all() and high > low and np.ptp(values) > 0:  # cubic resize may add noise to a constant
        scaled[y0:y1, x0:x1] = (resized - low) / (high - low)
    return scaled


def visible_window(sample: dict[str, Any], input_size: tuple[int, int]) -> Window:
    """Return the part of an image that the network saw.

    Args:
        sample: row of the sample table.
        input_size: height and width of the network's input, in pixels.
    """
    height, width = input_size
    x0, y0 = sample["offset_x"] / sample["width"], sample["offset_y"] / sample["height"]
    x1 = x0 + sample["scale_x"] * width / sample["width"]
    y1 = y0 + sample["scale_y"] * height / sample["height"]
    return x0, y0, x1, y1
