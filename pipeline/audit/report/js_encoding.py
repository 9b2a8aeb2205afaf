"""Encoding of data as scripts: a page that is opened from a disk may load scripts, but cannot fetch files."""

import base64
import json
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from pipeline.utils.json_values import replace_nonfinite


def to_base64(values: NDArray[Any] | bytes) -> str:
    """Return bytes, or an array of any shape in row-major order and little-endian, as base64."""
    data = values if isinstance(values, bytes) else values.astype(values.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(data).decode("ascii")


def to_script(function: str, *arguments: Any) -> bytes:
    """Return a script that calls ``atlas.<function>`` with JSON values; null for NaN and infinity.

    Nothing in it can end a script element, whatever the values are.

    Args:
        function: name of the function.
        *arguments: values that JSON can express.
    """
    texts = [json.dumps(replace_nonfinite(value), allow_nan=False, separators=(",", ":")) for value in arguments]
    text = ", ".join(texts).replace("<", "\\u003c")
    return f"atlas.{function}({text});\n".encode("ascii")


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
