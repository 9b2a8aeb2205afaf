"""Selection of JPEGs that any decoder can take, such as nvJPEG: baseline ones, recognized by their headers."""

import hashlib
from dataclasses import dataclass

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.image import PreprocessConfig, parse_exif_orientation
from pipeline.read.decode import DecodedImage, open_image
from pipeline.read.strip_metadata import StrippedImage, UndecodableImageError

MAX_BASELINE_PIXELS = 32_000_000
"""Pixels as stored and as resized: decoders of devices take 128 bits for each."""
MAX_SHRINK = 32
"""Pixels that become one, in either direction: a resize on a GPU has no memory for the weights of many more."""
_BASELINE = 0xC0
_END = b"\xff\xd9"
_SAMPLINGS = {(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)}
"""Luma samples for one of each chroma, across and down: 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1."""


@dataclass(frozen=True)
class BaselineJpeg:
    """A JPEG that is baseline, upright, complete, of one scan, and grayscale or in YCbCr.

    Attributes:
        original: encoded, as stored.
        data: encoded, without metadata.
        grayscale: it has one component.
        image: everything but the pixels, which are None.
    """

    original: bytes
    data: bytes
    grayscale: bool
    image: DecodedImage


def parse_baseline_jpeg(data: bytes, config: PreprocessConfig) -> BaselineJpeg | str:
    """Parse the headers of an image; nothing is decoded.

    Args:
        data: encoded, of any format.
        config: of the resize and crop.

    Returns:
        The JPEG if any decoder can take it, else the reason in a word or two.
    """
    try:
        image, stripped = open_image(data)
    except UndecodableImageError:
        return "undecodable"
    if reason := _unsupported_feature(image, stripped):
        return reason
    transform = config.transform_for(image.width, image.height)
    if max(image.width * image.height, transform.size[0] * transform.size[1]) > MAX_BASELINE_PIXELS:
        return "large"
    if max(transform.scale_x, transform.scale_y) > MAX_SHRINK:
        return "large"
    sha256 = hashlib.sha256(data).hexdigest()
    decoded = DecodedImage(None, image.width, image.height, 1, transform, sha256, len(data))
    return BaselineJpeg(data, stripped.data, image.mode == "L", decoded)


def _unsupported_feature(image: ImageFile, stripped: StrippedImage) -> str | None:
    """Return a feature of the image that decoders treat differently, if it has one."""
    if not isinstance(image, JpegImageFile):
        return image.format or "no JPEG"
    if parse_exif_orientation(stripped.exif) != 1:
        return "orientation"
    if stripped.codings != (_BASELINE,):
        return "not baseline"
    if stripped.scans != 1:
        return "several scans"
    if not stripped.data.endswith(_END):
        return "truncated"
    if image.mode == "L":
        return None
    if image.mode != "RGB":
        return image.mode
    return _unsupported_color(image)


def _unsupported_color(image: JpegImageFile) -> str | None:
    identifiers, across, down, _ = zip(*image.layer, strict=True)
    adobe = image.info.get("adobe_transform")
    # libjpeg decides by these three. If they disagree, a decoder may take YCbCr for RGB, or the reverse.
    if adobe not in (None, 1) or (adobe is None and "jfif" not in image.info and identifiers != (1, 2, 3)):
        return "colors"
    if (across[1:], down[1:]) != ((1, 1), (1, 1)) or (across[0], down[0]) not in _SAMPLINGS:
        return "sampling"
    return None
