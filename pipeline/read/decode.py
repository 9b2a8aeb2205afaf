"""Encoded image to pixels of the network's input."""

import hashlib
import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.read.geometry import Frame, Placement

MAX_PIXELS = 100_000_000
"""Larger pictures are not decoded: one would take more memory than a batch."""

_ORIENTATION = 0x0112
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


class Undecodable(Exception):
    """The bytes are not a picture that can be used; the message is one sentence."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: uint8 [3, H, W], RGB, of the frame's size.
        width, height: of the original, after ``orientation`` (EXIF, 1–8) was applied.
        placement: how it came into the frame.
        sha256, size: of the encoded bytes.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    orientation: int
    placement: Placement
    sha256: str
    size: int


def decode(data: bytes, frame: Frame) -> Picture:
    """Decode a picture and bring it into the frame.

    JPEG, PNG, WebP, PPM, BMP by their contents, whatever the extension said; greyscale, palette, CMYK and
    16-bit become 8-bit RGB; transparency is dropped; EXIF orientation is applied.

    Raises:
        Undecodable: not a picture, truncated, too large, or of a kind without a meaning in RGB.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "PPM", "BMP"))
        if image.width * image.height > MAX_PIXELS:
            raise Undecodable(f"{image.width}×{image.height} pixels are more than {MAX_PIXELS:,}")
        image.load()
        orientation = _orientation(image)
        image = _rgb(image if orientation == 1 else image.transpose(_UPRIGHT[orientation]))
        placement = frame.place(image.width, image.height)
        resized_width, resized_height = placement.size
        if resized_width * resized_height > MAX_PIXELS:  # much longer than wide, and to be cropped
            raise Undecodable(f"{image.width}×{image.height} become {resized_width}×{resized_height} before the crop")
        resized = image.resize(placement.size, Image.Resampling[frame.interpolation.upper()])
        box = (placement.left, placement.top, placement.left + frame.width, placement.top + frame.height)
        pixels = np.asarray(resized.crop(box)).transpose(2, 0, 1)
    except Undecodable:
        raise
    except Image.DecompressionBombError:
        raise Undecodable(f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise Undecodable(f"{len(data)} bytes that are no JPEG, PNG, WebP, PPM or BMP") from None
    except (OSError, SyntaxError, ValueError, struct.error, EOFError, OverflowError, MemoryError) as error:
        raise Undecodable(f"{type(error).__name__}: {error}") from None
    return Picture(
        pixels=np.ascontiguousarray(pixels),
        width=image.width,
        height=image.height,
        orientation=orientation,
        placement=placement,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or it says nonsense."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, struct.error, KeyError, TypeError):
        return 1  # pixels are good, only the metadata is broken
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 bits; convert() would clip at 255 instead of scaling
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Undecodable("floating-point pixels have no known range")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")
