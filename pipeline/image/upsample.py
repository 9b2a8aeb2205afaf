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
    values = values.astype(np.float32)
    for axis, (length, scale, offset) in enumerate(_axes(sample)):
        low, high, part = _taps(length, values.shape[axis], frame[axis], scale, offset)
        part = part[:, None] if axis == 0 else part
        # Two taps, not a product of matrices: BLAS would take more time to share it out than to do it.
        values = values.take(low, axis) * (1 - part) + values.take(high, axis) * part
    known = seen(sample, frame)
    return values.astype(np.float32) if known.all() else np.where(known, values, 0).astype(np.float32)


def seen(sample: dict[str, Any], frame: tuple[int, int]) -> NDArray[np.bool_]:
    """Where the network saw a picture: bool [height, width] of the original. Frame: as in ``enlarge``."""
    rows, columns = (
        _seen(length, limit, scale, offset) for (length, scale, offset), limit in zip(_axes(sample), frame, strict=True)
    )
    return rows[:, None] & columns[None, :]


def _axes(sample: dict[str, Any]) -> tuple[tuple[int, float, float], tuple[int, float, float]]:
    """Length of the original, and scale and offset of the way to it, down and to the right."""
    down = sample["height"], sample["scale_y"], sample["offset_y"]
    return down, (sample["width"], sample["scale_x"], sample["offset_x"])


def _at(length: int, scale: float, offset: float) -> NDArray[np.float64]:
    """Centres of the pixels, in the network's input."""
    return (np.arange(length, dtype=np.float64) + 0.5 - offset) / scale


def _seen(length: int, frame: int, scale: float, offset: float) -> NDArray[np.bool_]:
    at = _at(length, scale, offset)
    inside: NDArray[np.bool_] = (at >= 0) & (at <= frame)
    return inside


@lru_cache(maxsize=256)
def _taps(
    length: int, cells: int, frame: int, scale: float, offset: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Linear interpolation along one axis: the cells before and after each pixel, and the share of the latter."""
    place = np.clip(_at(length, scale, offset) / frame * cells - 0.5, 0, cells - 1)
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, cells - 1), (place - low).astype(np.float32)
