"""Masks as indexed PNG: 0 background, 1 object, 255 ignore."""

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.label.mask import Label

OBJECT, IGNORE = 1, 255


def label_array(label: Label) -> NDArray[np.uint8]:
    """The mask of a label that has one: uint8 [height, width], 0, 1 or 255."""
    mask, ignore = label.mask, label.ignore
    if mask is None or ignore is None:
        raise ValueError(f"{label.sample['key']}: has no mask")
    coded = mask.astype(np.uint8) * np.uint8(OBJECT)
    coded[ignore] = IGNORE
    return coded


@cache
def voc_color(index: int) -> tuple[int, int, int]:
    """Red, green and blue of a class in the PASCAL VOC palette (VOCdevkit, ``VOClabelcolormap``).

    Bits 0, 3, 6 … of the index become the upper bits of red, the next ones of green, the next ones of blue.
    """
    red, green, blue = (
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(8)) for channel in range(3)
    )
    return red, green, blue


VOC = bytes(channel for index in range(256) for channel in voc_color(index))
"""That palette; 255 is cream."""
GRAYS = bytes((0, 0, 0)) + bytes((255, 255, 255)) + bytes((128, 128, 128)) * 254
"""Black, white, and grey for what is ignored."""


def encode_indexed_png(coded: NDArray[np.uint8], palette: bytes, bits: int = 8) -> bytes:
    """An indexed PNG.

    Args:
        coded: uint8 [height, width].
        palette: red, green, blue by value; with an entry for each, since a PNG with a value beyond its palette is
            not valid, and readers differ in what they make of it.
        bits: of a pixel, 8 or 1.
    """
    image = Image.fromarray(coded).convert("L")
    image.putpalette(palette[: 3 << bits])
    return encode_png(image, bits=bits)


def encode_png(image: Image.Image, **options: int) -> bytes:
    """A picture as PNG. Harder compression would save 5 % and take ten times as long."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()
