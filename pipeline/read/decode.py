"""Encoded image to pixels of the network's input."""

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.image import Frame, Placement, fit, rgb, upright
from pipeline.read import strip_metadata
from pipeline.read.strip_metadata import Bare
from pipeline.read.strip_metadata import Undecodable as Undecodable

MAX_PIXELS = 100_000_000
"""Larger pictures are not decoded: one would take more memory than a batch."""
MAX_WALKS = 2_000_000_000
"""Pixels times scans of a JPEG: each scan of a progressive one walks over all pixels."""
MAX_INTERPRETED = 10_000_000
"""Values of a picture, or quarters of its bytes, that Pillow decodes in Python: plain and rescaled PPM, BMP of runs."""

_KINDS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Bare], type[ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), strip_metadata.jpeg, JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), strip_metadata.png, PngImageFile),
    (re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL), strip_metadata.webp, WebPImageFile),
    (re.compile(rb"P[1-6]\s"), strip_metadata.ppm, PpmImageFile),
    (re.compile(rb"BM"), strip_metadata.bmp, BmpImageFile),
)
"""How each kind begins, what leaves its metadata away, and what decodes it."""
_COMPILED = ("jpeg", "zip", "raw")


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: uint8 [3, H, W], RGB, of the frame's size: a NumPy array, or a tensor of the device that decoded it.
        width, height: of the original, after ``orientation`` (EXIF, 1–8) was applied.
        placement: how it came into the frame.
        sha256, size: of the encoded bytes.
        fallback: why it was decoded here, where it was to be decoded on the device of the network.
    """

    pixels: Any
    width: int
    height: int
    orientation: int
    placement: Placement
    sha256: str
    size: int
    fallback: str | None = None


def decode(data: bytes, frame: Frame) -> Picture:
    """Decode a picture and bring it into the frame.

    JPEG, PNG, WebP, PPM, BMP by their contents, whatever the extension said; greyscale, palette, CMYK and
    16-bit become 8-bit RGB; transparency is dropped; EXIF orientation is applied.

    Nothing that is accepted takes more than 1.7 GB beside its own bytes (a WebP of 100 million pixels; 0.5 to 1.3
    for the other kinds) or about 15 s of one core (JPEG 11, PPM and BMP 10, WebP 5, PNG 4).

    Raises:
        Undecodable: not a picture, truncated, too large, or more work than its pixels are worth.
    """
    image, orientation = _loaded(data)
    image = rgb(upright(image, orientation))
    placement = frame.place(image.width, image.height)
    resized_width, resized_height = placement.size
    if resized_width * resized_height > MAX_PIXELS:  # much longer than wide, and to be cropped
        raise Undecodable(f"{image.width}×{image.height} become {resized_width}×{resized_height} before the crop")
    return Picture(
        pixels=fit(image, frame, placement),
        width=image.width,
        height=image.height,
        orientation=orientation,
        placement=placement,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )


def opened(data: bytes) -> tuple[ImageFile, Bare]:
    """A picture of which the headers have been read and found to be within the limits, and its bytes without metadata.

    Raises:
        Undecodable: see ``decode``.
    """
    kind = next((each for each in _KINDS if each[0].match(data)), None)
    if kind is None:
        raise Undecodable(f"{len(data)} bytes that are no JPEG, PNG, WebP, PPM or BMP")
    _, strip, decoder = kind
    stripped = strip(data)
    with _one_sentence():
        image = decoder(io.BytesIO(stripped.data))
        _affordable(image, stripped)
    return image, stripped


def _loaded(data: bytes) -> tuple[Image.Image, int]:
    """The decoded picture as it is stored, and its EXIF orientation."""
    image, stripped = opened(data)
    with _one_sentence():
        image.load()
    return image, strip_metadata.orientation(stripped.exif)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Whatever a decoder raises, as ``Undecodable``."""
    try:
        yield
    except (Undecodable, MemoryError):  # the latter is the machine's fault: limits are looked at before
        raise
    except Image.DecompressionBombError:
        raise Undecodable(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # decoders raise whatever it is that they trip over
        raise Undecodable(f"{type(error).__name__}: {error}"[:200]) from None


def _affordable(image: ImageFile, stripped: Bare) -> None:
    """Refuse by its headers alone what would take too much memory or time."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise Undecodable(f"{image.width}×{image.height} pixels are more than {MAX_PIXELS:,}")
    if pixels * stripped.scans > MAX_WALKS:
        raise Undecodable(f"{stripped.scans} scans of {image.width}×{image.height} pixels are more than {MAX_WALKS:,}")
    if any(tile[0] not in _COMPILED for tile in image.tile):
        values = max(pixels * len(image.getbands()), len(stripped.data) // 4)
        if values > MAX_INTERPRETED:
            raise Undecodable(f"{values:,} values one by one are more than {MAX_INTERPRETED:,}")
