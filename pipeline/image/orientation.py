"""EXIF orientation: reading it, and turning images, boxes and masks upright."""

import struct
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Scalar = TypeVar("Scalar", bound=np.generic)

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that turns an image of each EXIF orientation upright."""
_FLIPS_X, _FLIPS_Y = (2, 3, 6, 7), (3, 4, 7, 8)
"""Orientations that are turned upright by a mirror image in x, or in y, after rows and columns are swapped."""
_PREFIX = b"Exif\0\0"
_TAG = 0x0112
_INTEGERS = {3: "H", 4: "I"}
"""Integer types of EXIF by their number."""


def swaps_sides(orientation: int) -> bool:
    """Return whether the upright image is as wide as the stored one is high."""
    return orientation >= 5


def invert_orientation(orientation: int) -> int:
    """Return the orientation that turns an upright image into the stored one."""
    return {6: 8, 8: 6}.get(orientation, orientation)


def parse_exif_orientation(exif: bytes) -> int:
    """Return the EXIF orientation, 1 to 8, of an EXIF block; 1 (upright) if there is none or an invalid one."""
    exif = exif.removeprefix(_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for index in range(count):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, directory + 2 + 12 * index)
            if tag == _TAG and kind in _INTEGERS and values:
                (value,) = struct.unpack_from(order + _INTEGERS[kind], exif, directory + 10 + 12 * index)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1  # the pixels are good, only the metadata is broken
    return 1


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, of an opened image; 1 if it has none or an invalid one."""
    exif = image.info.get("exif")
    return parse_exif_orientation(exif if isinstance(exif, bytes) else image.getexif().tobytes())


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image upright.

    Args:
        image: as stored.
        orientation: EXIF, 1 to 8.
    """
    return image if orientation == 1 else image.transpose(_TRANSPOSES[orientation])


def orient_mask(mask: NDArray[Scalar], orientation: int) -> NDArray[Scalar]:
    """Return a mask upright.

    Args:
        mask: [height, width] of the stored image, of any type.
        orientation: EXIF, 1 to 8.
    """
    if swaps_sides(orientation):
        mask = mask.T
    if orientation in _FLIPS_X:
        mask = mask[:, ::-1]
    return np.ascontiguousarray(mask[::-1] if orientation in _FLIPS_Y else mask)


def orient_points(points: NDArray[np.float64], orientation: int) -> NDArray[np.float64]:
    """Return points of the upright image.

    Args:
        points: float [n, 2], x and y as fractions of width and height of the stored image.
        orientation: EXIF, 1 to 8.
    """
    x, y = points.T[::-1] if swaps_sides(orientation) else points.T
    return np.stack([1 - x if orientation in _FLIPS_X else x, 1 - y if orientation in _FLIPS_Y else y], 1)


def orient_boxes(boxes: NDArray[np.int64], orientation: int, width: int, height: int) -> NDArray[np.int64]:
    """Return boxes of the upright image.

    Args:
        boxes: int64 [m, 4] of the stored image: x0, y0, x1, y1, ends inclusive.
        orientation: EXIF, 1 to 8.
        width: of the stored image, in pixels.
        height: of the stored image, in pixels.
    """
    if swaps_sides(orientation):
        boxes, width, height = boxes[:, [1, 0, 3, 2]], height, width
    if orientation in _FLIPS_X:
        boxes = np.stack([width - 1 - boxes[:, 2], boxes[:, 1], width - 1 - boxes[:, 0], boxes[:, 3]], 1)
    if orientation in _FLIPS_Y:
        boxes = np.stack([boxes[:, 0], height - 1 - boxes[:, 3], boxes[:, 2], height - 1 - boxes[:, 1]], 1)
    return boxes
