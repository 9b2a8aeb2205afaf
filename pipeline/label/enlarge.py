"""From cells that lie in the network's input to pixels of the original picture."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def enlarge(values: NDArray[np.floating], sample: dict[str, Any], frame: tuple[int, int]) -> NDArray[np.float32]:
    """A map, resized linearly to where it lies in the original picture.

    Args:
        values: float [h, w], on the patch grid or a finer one.
        sample: with width, height, scale and offset.
        frame: height and width of the network's input.

    Returns:
        float32 [height, width] of the original; 0 where the network saw nothing.
    """
    rows = _linear(sample["height"], values.shape[0], frame[0], sample["scale_y"], sample["offset_y"])
    columns = _linear(sample["width"], values.shape[1], frame[1], sample["scale_x"], sample["offset_x"])
    return rows @ values.astype(np.float32) @ columns.T


def seen(sample: dict[str, Any], frame: tuple[int, int]) -> NDArray[np.bool_]:
    """Where the network saw a picture: bool [height, width] of the original. Frame: as in ``enlarge``."""
    rows = _seen(sample["height"], frame[0], sample["scale_y"], sample["offset_y"])
    columns = _seen(sample["width"], frame[1], sample["scale_x"], sample["offset_x"])
    return rows[:, None] & columns[None, :]


def _seen(length: int, frame: int, scale: float, offset: float) -> NDArray[np.bool_]:
    at = (np.arange(length) + 0.5 - offset) / scale  # pixel centres, in the network's input
    inside: NDArray[np.bool_] = (at >= 0) & (at <= frame)
    return inside


@lru_cache(maxsize=256)
def _linear(length: int, cells: int, frame: int, scale: float, offset: float) -> NDArray[np.float32]:
    """Linear interpolation from cells to pixels along one axis, as a matrix [length, cells]."""
    at = (np.arange(length) + 0.5 - offset) / scale
    place = np.clip(at / frame * cells - 0.5, 0, cells - 1)
    low = np.minimum(place.astype(np.int64), max(0, cells - 2))
    part = place - low
    weights = np.zeros((length, cells), np.float32)
    pixels = np.arange(length)
    weights[pixels, low] = 1 - part
    weights[pixels, np.minimum(low + 1, cells - 1)] += part
    return weights * _seen(length, frame, scale, offset)[:, None].astype(np.float32)
