"""Decoding of score maps and masks: arrays of NumPy and gray PNGs. No pickle is read, and sizes are bounded.

A map of booleans, or of whole numbers of which there are two, is a mask; its object has the larger one. So is an
indexed PNG: 0 is background, 255 is ignored and no object, other indices are objects; one in black and white
that shows 0 or 255 in white is refused, and so is one whole number everywhere but 0. All others are score maps.
"""

import io
import zipfile
from collections.abc import Sequence

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.read.decode import MAX_PIXELS
from pipeline.score.sources.source import Prediction
from pipeline.truth.png_file import may_be_gray, open_png
from schemas.errors import UsageError

SUFFIXES = (".npy", ".npz", ".png")
MAX_BYTES = 8 * MAX_PIXELS + (1 << 20)
"""Largest file of a map: float64 and a header."""

_IGNORED = 255
_MAX_OBJECTS = 64
"""Largest number of an object or class in a PNG, and largest number of values of an indexed one."""
_GRAY_MODES = ("1", "L", "P", "I", "I;16")


def decode_map(data: bytes, name: str) -> Prediction:
    """Return a score map, float64 [h, w], or a mask, bool [h, w].

    Args:
        data: content of a file.
        name: of the file, with its suffix; for errors, too.

    Raises:
        UsageError: the file cannot be read, has no map [height, width] of real numbers, or has two readings.
    """
    values = _decode_png(data, name) if name.lower().endswith(".png") else _load(data, name)
    if values.dtype != bool and values.dtype.kind in "iu":
        levels = np.unique(values)
        if len(levels) == 1 and levels[0] != 0:
            raise UsageError(
                f"{name}: is {levels[0]} everywhere, which may be a mask of the whole image or a constant map; write "
                "masks as booleans or one bit, or maps as floating point"
            )
        if len(levels) == 2:
            values = values == levels[1]
    return values if values.dtype == bool else values.astype(np.float64)


def map_size(data: bytes, name: str) -> tuple[int, int]:
    """Return width and height of a map.

    Args and errors are those of ``decode_map``.
    """
    height, width = decode_map(data, name).shape
    return width, height


def _load(data: bytes, name: str) -> NDArray[np.generic]:
    try:
        if name.lower().endswith(".npz"):
            data = _unzip(data, name)
        stream = io.BytesIO(data)
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        if len(shape) != 2 or dtype.kind not in "biuf" or 0 in shape:
            raise UsageError(f"{name}: holds {dtype} of shape {shape}; write real numbers [height, width]")
        if shape[0] * shape[1] > MAX_PIXELS:  # before anything is allocated
            raise UsageError(f"{name}: {shape[1]}×{shape[0]} pixels are more than {MAX_PIXELS:,}; reduce it")
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # NumPy and zipfile raise many types on damaged or encrypted files
        raise UsageError(f"{name}: cannot be read as an array of NumPy ({error}); write it anew") from None


def _unzip(data: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if len(members) != 1:
            raise UsageError(f"{name}: has {len(members)} arrays, so which is the map is not known; write one")
        with archive.open(members[0]) as stream:
            content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UsageError(f"{name}: has more than {MAX_BYTES:,} bytes; reduce the map")
    return content


def _decode_png(data: bytes, name: str) -> NDArray[np.generic]:
    with open_png(data, name) as image:
        if image.mode not in _GRAY_MODES:
            raise UsageError(
                f"{name}: is a PNG of mode {image.mode}, and colors have no order; write gray of 8 or 16 bits, indices "
                "or one bit"
            )
        mode, values, palette = image.mode, np.asarray(image), image.getpalette() or ()
    if mode == "P":
        return _mask_of_indices(values, palette, name)
    if mode == "L":
        _refuse_object_numbers(values, name)
    return values


def _mask_of_indices(values: NDArray[np.generic], palette: Sequence[int], name: str) -> NDArray[np.bool_]:
    if len(np.unique(values)) > _MAX_OBJECTS:
        raise UsageError(
            f"{name}: is an indexed PNG with more than {_MAX_OBJECTS} indices, as a colored map has, whose order is "
            "not known; write scores as gray"
        )
    if may_be_gray(palette, values):
        raise UsageError(
            f"{name}: is an indexed PNG in black and white that shows 0 or 255 in white, so which is the object is "
            "not known; write the mask as gray or one bit"
        )
    return (values != 0) & (values != _IGNORED)


def _refuse_object_numbers(values: NDArray[np.generic], name: str) -> None:
    """Refuse a gray PNG whose values may be numbers of objects or classes as well as scores."""
    levels = np.unique(values)
    numbers = levels[levels != _IGNORED]
    if len(levels) > 2 and int(numbers.max()) < _MAX_OBJECTS:
        raise UsageError(
            f"{name}: its gray values are {len(levels)} numbers up to {int(numbers.max())}, which may be objects or "
            "scores; write objects as an indexed PNG, or scores up to 255"
        )
