"""Numbers as scripts: a page that was opened from a disk may load scripts, but cannot fetch anything else."""

import base64
import json
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray


def to_base64(values: NDArray[Any] | bytes) -> str:
    """Bytes, or an array in row order, little-endian, as base64."""
    data = values if isinstance(values, bytes) else values.astype(values.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(data).decode("ascii")


def to_script(function: str, *arguments: Any) -> bytes:
    """A script that calls ``atlas.<function>`` with JSON values; null where a number is not finite.

    Nothing in it can end a script element, whatever the values hold.
    """
    told = ", ".join(json.dumps(_finite(each), allow_nan=False, separators=(",", ":")) for each in arguments)
    told = told.replace("<", "\\u003c")
    return f"atlas.{function}({told});\n".encode("ascii")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def to_uint8(maps: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Maps in [0, 1] as whole numbers up to 255, rounded; 0 where they are NaN."""
    return np.rint(np.nan_to_num(maps) * 255).astype(np.uint8)


def stretch_to_uint8(maps: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Maps [..., h, w] of any scale from 0, their least value, to 255, their largest; 0 where they are constant."""
    low, high = maps.min((-2, -1), keepdims=True), maps.max((-2, -1), keepdims=True)
    return to_uint8((maps - low) / np.where(high > low, high - low, 1))


def read_color_map(name: str = "inferno") -> NDArray[np.uint8]:
    """A perceptually uniform colour map of matplotlib: uint8 [256, 3]."""
    return np.rint(colormaps[name](np.arange(256))[:, :3] * 255).astype(np.uint8)
