"""PNG encoding of masks: 0 background, 1 object, 255 ignore."""

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.label.mask import Label

OBJECT, IGNORE = 1, 255

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


def label_array(label: Label) -> NDArray[np.uint8]:
    """Return the mask of a label as uint8 [height, width], 0, 1 or 255.

    Raises:
        ValueError: the label has no mask.
    """
    mask, ignore = label.mask, label.ignore
    if mask is None or ignore is None:
        raise ValueError(f"{label.sample['key']}: has no mask")
    values = mask.astype(np.uint8) * np.uint8(OBJECT)
    values[ignore] = IGNORE
    return values


@cache
def voc_color(index: int) -> Color:
    """Return the color of a class in the PASCAL VOC palette (VOCdevkit, ``VOClabelcolormap``).

    Bits 0, 3, 6 … of the index become the upper bits of red, the next ones of green, the next ones of blue.
    """
    red, green, blue = (
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)
    )
    return red, green, blue


VOC_PALETTE = bytes(channel for index in range(256) for channel in voc_color(index))
"""The PASCAL VOC palette; 255 is cream."""
GRAY_PALETTE = bytes((0, 0, 0)) + bytes((255, 255, 255)) + bytes((128, 128, 128)) * 254
"""Black background, white object, gray ignored pixels."""


def encode_indexed_png(values: NDArray[np.uint8], palette: bytes, bits: int = 8) -> bytes:
    """Return an indexed PNG.

    Args:
        values: uint8 [height, width].
        palette: red, green and blue of each value. It must have all 2^bits entries: a PNG with a value beyond its
            palette is not valid, and readers differ in how they show it.
        bits: bits per pixel, 8 or 1.
    """
    image = Image.fromarray(values).convert("L")
    image.putpalette(palette[: 3 << bits])
    return encode_png(image, bits=bits)


def encode_png(image: Image.Image, **options: int) -> bytes:
    """Return an image as PNG. A higher compression level would save 5 % and take ten times as long."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()
