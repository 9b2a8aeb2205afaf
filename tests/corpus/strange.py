"""What strange pictures of all formats are made of."""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from schemas.samples import SampleStatus

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

OK, BAD = SampleStatus.OK, SampleStatus.UNDECODABLE


@dataclass(frozen=True)
class Strange:
    """Bytes, and what a run is to make of them."""

    make: Callable[[], bytes]
    status: SampleStatus


def blocks(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.NEAREST).convert(mode)


def deep(size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Sixteen bits."""
    width, height = size
    return Image.fromarray(np.linspace(0, 65535, width * height).astype(np.uint16).reshape(height, width))


def exif(entries: Iterable[tuple[int, int, int, int]], count: int | None = None, first: int = 8) -> bytes:
    """An EXIF block of these tags, each with type, number and value."""
    packed = [struct.pack("<HHII", *entry) for entry in entries]
    number = len(packed) if count is None else count
    return b"II*\0" + struct.pack("<IH", first, number) + b"".join(packed) + b"\0\0\0\0"
