"""A decoded picture to the pixels of a network's input."""

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from pipeline.image.geometry import Frame, Placement

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright."""


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1–8, that an opened picture carries; 1 where it says none, or nonsense."""
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found if found in _UPRIGHT else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as it is meant to be seen. Orientation: EXIF, 1–8."""
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])


def rgb(image: Image.Image) -> Image.Image:
    """The picture in 8-bit RGB. Sixteen bits are scaled, transparency is dropped."""
    if image.mode.startswith("I"):  # 16 bits; convert() would clip at 255 instead of scaling
        image = Image.fromarray(_eight_bits(image))
    if "transparency" in image.info:  # Pillow warns where it would be dropped in one step
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def fit(image: Image.Image, frame: Frame, placement: Placement) -> NDArray[np.uint8]:
    """An upright RGB picture, resized and cut to the frame: uint8 [3, H, W]."""
    resized = image.resize(placement.size, Image.Resampling[frame.interpolation.upper()])
    box = (placement.left, placement.top, placement.left + frame.width, placement.top + frame.height)
    return np.ascontiguousarray(np.asarray(resized.crop(box)).transpose(2, 0, 1))


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Sixteen bits to eight, a few rows at a time, since the picture itself is large enough."""
    pixels = np.empty((image.height, image.width), np.uint8)
    rows = max(1, (1 << 22) // image.width)
    for top in range(0, image.height, rows):
        strip = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        pixels[top : top + rows] = strip.clip(0, 65535) >> 8
    return pixels
