"""JPEGs that any decoder can take: told by their headers, within the limits of ``decode``."""

import hashlib
from dataclasses import dataclass

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.image import Frame
from pipeline.read import strip_metadata
from pipeline.read.decode import Picture, opened
from pipeline.read.strip_metadata import Bare, Undecodable

MAX_PLAIN = 32_000_000
"""Pixels of a plain picture, as it is stored and as it is resized: 128 bits of each are too much memory beyond it."""
MAX_SHRINK = 32
"""Pixels that become one, in either direction: a resize on a GPU has no room for the weights of many more."""
_BASELINE = 0xC0
_END = b"\xff\xd9"
_SAMPLINGS = {(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)}
"""Samples of lightness for one of each colour, across and down: 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1."""


@dataclass(frozen=True)
class Plain:
    """A JPEG that is baseline, upright, of one scan, whole, and grey or in YCbCr.

    Attributes:
        original: as it was given.
        data: without its metadata.
        grey: it has one component.
        picture: all that is known of it but the pixels, which are None.
    """

    original: bytes
    data: bytes
    grey: bool
    picture: Picture


def plain(data: bytes, frame: Frame) -> Plain | str:
    """A picture that any decoder can take, or what it is instead, in a word or two. Nothing is decoded."""
    try:
        image, stripped = opened(data)
    except Undecodable:
        return "undecodable"
    if reason := _awkward(image, stripped):
        return reason
    placement = frame.place(image.width, image.height)
    if max(image.width * image.height, placement.size[0] * placement.size[1]) > MAX_PLAIN:
        return "large"
    if max(placement.scale_x, placement.scale_y) > MAX_SHRINK:
        return "large"
    sha256 = hashlib.sha256(data).hexdigest()
    picture = Picture(None, image.width, image.height, 1, placement, sha256, len(data))
    return Plain(data, stripped.data, image.mode == "L", picture)


def _awkward(image: ImageFile, stripped: Bare) -> str | None:
    """What decoders differ in, if a picture has it."""
    if not isinstance(image, JpegImageFile):
        return image.format or "no JPEG"
    if strip_metadata.orientation(stripped.exif) != 1:
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
    return _colours(image)


def _colours(image: JpegImageFile) -> str | None:
    """What is unusual about the colours of a JPEG of three components, if anything."""
    identifiers, across, down, _ = zip(*image.layer, strict=True)
    adobe = image.info.get("adobe_transform")
    # What libjpeg goes by, where all of it says the same; else decoders may take YCbCr for RGB, or the reverse.
    if adobe not in (None, 1) or (adobe is None and "jfif" not in image.info and identifiers != (1, 2, 3)):
        return "colours"
    if (across[1:], down[1:]) != ((1, 1), (1, 1)) or (across[0], down[0]) not in _SAMPLINGS:
        return "sampling"
    return None
