"""Segmentations of COCO to masks: polygons, and run lengths with and without compression.

pycocotools decodes them, but trusts them: of runs that end early it leaves memory as it was, and for a polygon it
takes as much as that is long, and behind run lengths that end within a number it reads on. So they are looked at first.
"""

from typing import Any

import numpy as np
from pycocotools import mask as rle

from pipeline.truth.truth import Mask


def decode(segmentation: Any, width: int, height: int) -> Mask:
    """A segmentation of a picture of that size: bool [height, width].

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    if isinstance(segmentation, list):
        coded = rle.merge(rle.frPyObjects([_polygon(each, width, height) for each in segmentation], height, width))
    else:
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its size is {segmentation['size']}, not that of the picture")
        runs = segmentation["counts"]
        counts = _unpacked(runs, width * height) if isinstance(runs, str) else [int(each) for each in runs]
        if min(counts, default=-1) < 0 or sum(counts) != width * height:
            raise ValueError("its runs are not those of the picture's pixels")
        coded = rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return rle.decode(coded).astype(bool)


def _polygon(corners: list[float], width: int, height: int) -> list[float]:
    places = np.array(corners, np.float64)
    if places.ndim != 1 or len(places) < 6 or len(places) % 2:
        raise ValueError("a polygon has three corners or more, x and y of each")
    sides = np.tile([width, height], len(places) // 2)
    if not (abs(places) <= 2 * sides).all():
        raise ValueError("a polygon leads far out of the picture")
    return list(places)


_LONGEST = 7
"""Characters of the largest number: that is a difference of 32 bits."""


def _unpacked(text: str, pixels: int) -> list[int]:
    """Run lengths from their compressed form: 5 bits a character, lowest first, from the fourth on as differences.

    Raises:
        ValueError: it is not of so many pixels, or ends within a number.
    """
    if len(text) > _LONGEST * (pixels + 1):  # each run has a pixel, but the first may have none
        raise ValueError("it is longer than the picture can need")
    counts: list[int] = []
    value = shift = 0
    for character in text.encode("ascii"):
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if shift > 5 * _LONGEST:
            raise ValueError("it has a number of more than 32 bits")
        if not bits & 32:
            signed = value - (1 << shift) if bits & 16 else value
            counts.append(signed + counts[-2] if len(counts) > 2 else signed)
            value = shift = 0
    if shift:
        raise ValueError("it ends within a number")
    return counts
