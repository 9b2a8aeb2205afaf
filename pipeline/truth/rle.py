"""Decoding of COCO segmentations to masks: polygons, and run lengths with and without compression.

pycocotools decodes them, but does not bound hostile input: for runs that end early it leaves memory uninitialized, for
a polygon it allocates as much as its length, and it reads beyond truncated run lengths. Input is validated here first.
"""

from typing import Any

import numpy as np
from pycocotools import mask as rle

from pipeline.truth.truth import Mask


def decode(segmentation: Any, width: int, height: int) -> Mask:
    """Return a segmentation as a mask, bool [height, width].

    Args:
        segmentation: a list of polygons, or ``{"size": [height, width], "counts": …}``.
        width: of the image, in pixels.
        height: of the image, in pixels.

    Raises:
        ValueError, TypeError, KeyError: it is not a valid segmentation of an image of this size.
    """
    if isinstance(segmentation, list):
        polygons = [_validate_polygon(polygon, width, height) for polygon in segmentation]
        polygons = [polygon for polygon in polygons if _has_area(polygon)]
        if not polygons:
            return np.zeros((height, width), bool)
        coded = rle.merge(rle.frPyObjects(polygons, height, width))
    else:
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its size is {segmentation['size']}, not that of the image")
        runs = segmentation["counts"]
        counts = _unpack_runs(runs, width * height) if isinstance(runs, str) else [int(run) for run in runs]
        if min(counts, default=-1) < 0 or sum(counts) != width * height:
            raise ValueError("its runs do not add up to the pixels of the image")
        coded = rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return rle.decode(coded).astype(bool)


def _validate_polygon(polygon: list[float], width: int, height: int) -> list[float]:
    coordinates = np.array(polygon, np.float64)
    if coordinates.ndim != 1 or len(coordinates) % 2:
        raise ValueError("a polygon needs x and y of each corner")
    limits = 2 * np.tile([width, height], len(coordinates) // 2)
    if not (abs(coordinates) <= limits).all():
        raise ValueError("a polygon reaches far outside the image")
    return list(coordinates)


def _has_area(polygon: list[float]) -> bool:
    """Return whether a polygon is more than a point or a line, which annotation tools leave behind."""
    x, y = np.array(polygon).reshape(-1, 2).T
    return len(x) > 2 and float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1))) > 1e-9


_MAX_CHARACTERS = 7
"""Characters of the largest number, a difference of 32 bits."""


def _unpack_runs(text: str, pixels: int) -> list[int]:
    """Return run lengths from the compressed form: 5 bits a character, lowest first, differences from the fourth on.

    Raises:
        ValueError: it is too long for so many pixels, or ends within a number.
    """
    if len(text) > _MAX_CHARACTERS * (pixels + 1):  # each run has a pixel, but the first may have none
        raise ValueError("it is longer than the image can need")
    counts: list[int] = []
    value = shift = 0
    for character in text.encode("ascii"):
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if shift > 5 * _MAX_CHARACTERS:
            raise ValueError("it has a number of more than 32 bits")
        if not bits & 32:
            signed = value - (1 << shift) if bits & 16 else value
            counts.append(signed + counts[-2] if len(counts) > 2 else signed)
            value = shift = 0
    if shift:
        raise ValueError("it ends within a number")
    return counts
