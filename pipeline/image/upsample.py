"""Upsampling of maps from the network's input to the pixels of the original image."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def upsample_to_image(
    values: NDArray[np.floating], sample: dict[str, Any], input_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Upsample a map bilinearly to its place in the original image.

    Args:
        values: float [h, w], on the patch grid or a finer one.
        sample: with width, height, scale and offset.
        input_size: height and width of the network's input, in pixels.

    Returns:
        float32 [height, width] of the original; 0 where the network saw nothing.
    """
    values = values.astype(np.float32)
    for axis, (length, scale, offset) in enumerate(_axes(sample)):
        low, high, weight = _linear_taps(length, values.shape[axis], input_size[axis], scale, offset)
        weight = weight[:, None] if axis == 0 else weight
        # Two taps, not a matrix product: BLAS would take more time to start its threads than to multiply.
        values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    valid = valid_region(sample, input_size)
    return values.astype(np.float32) if valid.all() else np.where(valid, values, 0).astype(np.float32)


def valid_region(sample: dict[str, Any], input_size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of the original image that the network saw.

    Args:
        sample: with width, height, scale and offset.
        input_size: height and width of the network's input, in pixels.

    Returns:
        bool [height, width] of the original.
    """
    rows, columns = (
        _valid_along(length, limit, scale, offset)
        for (length, scale, offset), limit in zip(_axes(sample), input_size, strict=True)
    )
    return rows[:, None] & columns[None, :]


def _axes(sample: dict[str, Any]) -> tuple[tuple[int, float, float], tuple[int, float, float]]:
    """Return length of the original, scale and offset for the vertical and the horizontal axis."""
    vertical = sample["height"], sample["scale_y"], sample["offset_y"]
    return vertical, (sample["width"], sample["scale_x"], sample["offset_x"])


def _input_coordinates(length: int, scale: float, offset: float) -> NDArray[np.float64]:
    """Return the centers of the original pixels in coordinates of the network's input."""
    return (np.arange(length, dtype=np.float64) + 0.5 - offset) / scale


def _valid_along(length: int, limit: int, scale: float, offset: float) -> NDArray[np.bool_]:
    coordinates = _input_coordinates(length, scale, offset)
    valid: NDArray[np.bool_] = (coordinates >= 0) & (coordinates <= limit)
    return valid


@lru_cache(maxsize=256)
def _linear_taps(
    length: int, cells: int, limit: int, scale: float, offset: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return, along one axis, the cells before and after each pixel and the weight of the latter."""
    position = np.clip(_input_coordinates(length, scale, offset) / limit * cells - 0.5, 0, cells - 1)
    low = position.astype(np.int64)
    return low, np.minimum(low + 1, cells - 1), (position - low).astype(np.float32)
