"""Decoding of an encoded image to the pixels of the network's input, within limits of memory and time."""

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

from pipeline.image import (
    CropTransform,
    PreprocessConfig,
    apply_orientation,
    parse_exif_orientation,
    resize_crop,
    to_rgb,
)
from pipeline.read import strip_metadata
from pipeline.read.strip_metadata import StrippedImage, UndecodableImageError

MAX_PIXELS = 100_000_000
"""Larger images are not decoded: one would take more memory than a batch."""
MAX_SCANNED_PIXELS = 2_000_000_000
"""Pixels times scans of a JPEG: each scan of a progressive one visits all pixels."""
MAX_INTERPRETED = 10_000_000
"""Values of an image, or quarters of its bytes, that Pillow decodes in Python: plain and rescaled PPM, BMP of runs."""

_FORMATS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], StrippedImage], type[ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), strip_metadata.strip_jpeg, JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), strip_metadata.strip_png, PngImageFile),
    (re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL), strip_metadata.strip_webp, WebPImageFile),
    (re.compile(rb"P[1-6]\s"), strip_metadata.strip_ppm, PpmImageFile),
    (re.compile(rb"BM"), strip_metadata.strip_bmp, BmpImageFile),
)
"""First bytes, metadata stripper and decoder of each format."""
_IMAGE_START = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|RIFF.{4}WEBP|P[1-6]\s+[#\d]|BM.{4}\0{4}"
    rb"|GIF8[79]a|II\*\0|MM\0\*|.{4}ftyp(?:avi[fs]|hei[cfsx]|mif1)|\0{3}\x0c(?:jP  |JXL )\r\n",
    re.DOTALL,
)
"""First bytes of images, also of formats that are not decoded, and hardly of anything else."""
_COMPILED = ("jpeg", "zip", "raw")


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: uint8 [3, H, W], RGB, of the input size: a NumPy array, or a tensor on the device that decoded it.
        width, height: of the original; after ``orientation`` (EXIF, 1 to 8) was applied, unless it is ignored.
        transform: from the original to the input.
        sha256, size: of the encoded bytes.
        fallback: why it was decoded by Pillow, if it was to be decoded on the device of the network.
    """

    pixels: Any
    width: int
    height: int
    orientation: int
    transform: CropTransform
    sha256: str
    size: int
    fallback: str | None = None


def decode_image(data: bytes, config: PreprocessConfig) -> DecodedImage:
    """Decode an image, resize and crop it.

    JPEG, PNG, WebP, PPM and BMP are recognized by their contents, whatever the extension; grayscale, palette, CMYK
    and 16-bit become 8-bit RGB; transparency is dropped; EXIF orientation is applied unless the config ignores it.

    An accepted image takes at most 1.7 GB beside its own bytes (a WebP of 100 million pixels; 0.5 to 1.3 for the other
    formats) and about 15 s of one core (JPEG 11, PPM and BMP 10, WebP 5, PNG 4).

    Args:
        data: encoded.
        config: of the resize and crop.

    Raises:
        UndecodableImageError: not an image, truncated, too large, or too expensive for its size.
    """
    stored, stripped = open_image(data)
    with _wrap_errors():
        stored.load()
    orientation = parse_exif_orientation(stripped.exif)
    image = to_rgb(apply_orientation(stored, orientation) if config.exif == "apply" else stored)
    transform = config.transform_for(image.width, image.height)
    resized_width, resized_height = transform.size
    if resized_width * resized_height > MAX_PIXELS:  # much longer than wide, and to be cropped
        raise UndecodableImageError(
            f"{image.width}×{image.height} become {resized_width}×{resized_height} before the crop"
        )
    return DecodedImage(
        pixels=resize_crop(image, config, transform),
        width=image.width,
        height=image.height,
        orientation=orientation,
        transform=transform,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )


def is_image_start(data: bytes) -> bool:
    """Return whether the first bytes of a file, 16 or more, are those of an image of any usual format."""
    return _IMAGE_START.match(data) is not None


def open_image(data: bytes) -> tuple[ImageFile, StrippedImage]:
    """Read the headers of an image and check its limits.

    Returns:
        The image, not yet decoded, and its bytes without metadata.

    Raises:
        UndecodableImageError: see ``decode_image``.
    """
    match = next(((strip, decoder) for magic, strip, decoder in _FORMATS if magic.match(data)), None)
    if match is None:
        raise UndecodableImageError(
            f"{len(data)} bytes that are no JPEG, PNG, WebP, PPM or BMP; convert it to one of these"
        )
    strip, decoder = match
    stripped = strip(data)
    with _wrap_errors():
        image = decoder(io.BytesIO(stripped.data))
        _check_limits(image, stripped)
    return image, stripped


@contextmanager
def _wrap_errors() -> Iterator[None]:
    """Raise any error of a decoder as ``UndecodableImageError``."""
    try:
        yield
    except (UndecodableImageError, MemoryError):  # the latter is the machine's fault: limits were checked before
        raise
    except Image.DecompressionBombError:
        raise UndecodableImageError(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # decoders raise errors of any type
        raise UndecodableImageError(f"{type(error).__name__}: {error}"[:200]) from None


def _check_limits(image: ImageFile, stripped: StrippedImage) -> None:
    """Refuse by its headers alone an image that would take too much memory or time."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise UndecodableImageError(f"{image.width}×{image.height} pixels are more than {MAX_PIXELS:,}")
    if pixels * stripped.scans > MAX_SCANNED_PIXELS:
        raise UndecodableImageError(
            f"{stripped.scans} scans of {image.width}×{image.height} pixels are more than {MAX_SCANNED_PIXELS:,}"
        )
    if any(tile[0] not in _COMPILED for tile in image.tile):
        values = max(pixels * len(image.getbands()), len(stripped.data) // 4)
        if values > MAX_INTERPRETED:
            raise UndecodableImageError(f"{values:,} values to decode in Python are more than {MAX_INTERPRETED:,}")
