"""Segmentations of COCO to masks: polygons, and run lengths with and without compression.

pycocotools decodes them, but trusts them: of runs that end early it leaves memory as it was, and for a polygon it
takes as much as that is long. So they are looked at first.
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
        packed = isinstance(segmentation["counts"], str)
        counts = _unpacked(segmentation["counts"]) if packed else [int(each) for each in segmentation["counts"]]
        if min(counts, default=-1) < 0 or sum(counts) != width * height:
            raise ValueError("its runs are not those of the picture's pixels")
        coded = segmentation if packed else rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return rle.decode(coded).astype(bool)


def _polygon(corners: list[float], width: int, height: int) -> list[float]:
    places = np.array(corners, np.float64)
    if places.ndim != 1 or len(places) < 6 or len(places) % 2:
        raise ValueError("a polygon has three corners or more, x and y of each")
    sides = np.tile([width, height], len(places) // 2)
    if not (abs(places) <= 2 * sides).all():
        raise ValueError("a polygon leads far out of the picture")
    return list(places)


def _unpacked(text: str) -> list[int]:
    """Run lengths from their compressed form: 5 bits a character, lowest first, from the fourth on as differences."""
    counts: list[int] = []
    value = shift = 0
    for character in text.encode("ascii"):
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            signed = value - (1 << shift) if bits & 16 else value
            counts.append(signed + counts[-2] if len(counts) > 2 else signed)
            value = shift = 0
    return counts
