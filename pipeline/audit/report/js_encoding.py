"""Encoding of arrays for the scripts of the page."""

import base64
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray


def to_base64(values: NDArray[Any] | bytes) -> str:
    """Return bytes, or an array of any shape in row-major order and little-endian, as base64."""
    data = values if isinstance(values, bytes) else values.astype(values.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(data).decode("ascii")


def to_uint8(maps: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return maps in [0, 1], of any shape, rounded to 0–255; 0 for NaN."""
    return np.rint(np.nan_to_num(maps) * 255).astype(np.uint8)


def stretch_to_uint8(maps: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return maps [..., h, w] of any scale from 0 (minimum) to 255 (maximum); 0 where they are constant."""
    low, high = maps.min((-2, -1), keepdims=True), maps.max((-2, -1), keepdims=True)
    return to_uint8((maps - low) / np.where(high > low, high - low, 1))


def read_color_map(name: str = "inferno") -> NDArray[np.uint8]:
    """Return a perceptually uniform color map of matplotlib: uint8 [256, 3]."""
    return np.rint(colormaps[name](np.arange(256))[:, :3] * 255).astype(np.uint8)
