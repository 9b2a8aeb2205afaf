"""An encoded picture without its metadata.

Profiles, comments, thumbnails and further pictures say nothing of the pixels, but a decoder that reads them can
take any time and memory for it, fail, or warn. What is left is what decides the pixels, and the EXIF block.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_PARTS = 100_000
"""Segments of a JPEG, or chunks of a PNG."""

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # but for those that are part of a scan
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_CODINGS = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_EXIF = b"Exif\0\0"
_APP1 = 0xE1
_METADATA = (*range(0xE1, 0xEE), 0xEF, 0xFE)
_COLOURS = {0xE0: 18, 0xEE: 16}
"""Markers of JFIF and Adobe, which say what the colours are, and the bytes that libjpeg believes them from."""
_PPM = re.compile(rb"P(?:[14](?:%b){2}|[2356](?:%b){3})".replace(b"%b", rb"(?:\s|#[^\r\n]*[\r\n])+[0-9]+"))
_PPM_HEADER = 1 << 16
_ORIENTATION = 0x0112
_INTEGERS = {3: "H", 4: "I"}
"""Types of EXIF by their number."""


class Undecodable(Exception):
    """The bytes are not a picture that can be used; the message is one sentence."""


@dataclass(frozen=True)
class Bare:
    """A picture without its metadata.

    Attributes:
        exif: its EXIF block, empty where it has none.
        scans: of a JPEG, how often a decoder walks over all pixels.
        codings: of a JPEG, the marker of each of its frames, of which a good one has one: 0xC0 is baseline.
    """

    data: bytes
    exif: bytes = b""
    scans: int = 1
    codings: tuple[int, ...] = ()


def jpeg(data: bytes) -> Bare:
    """A JPEG: its first picture, without the segments of applications.

    Raises:
        Undecodable: it has no end of segments, or none of a picture.
    """
    kept, exif, scans, codings = [data[:2]], b"", 0, []
    for marker, segment in _segments(data):
        if marker == _APP1 and segment[4:].startswith(_EXIF) and not exif:
            exif = segment[4:]
        scans += marker == _SCAN
        if marker in _CODINGS:
            codings.append(marker)
        if marker not in _METADATA and len(segment) >= _COLOURS.get(marker, 0):
            kept.append(segment)
    if not scans:
        raise Undecodable("a JPEG that is truncated or broken in front of its picture")
    return Bare(b"".join(kept), exif, scans, tuple(codings))


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes of each segment up to the end of the first picture, each scan with its pixels."""
    position = 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, position)
        if found is None:
            return
        marker, start = found[1][0], found.end() - 2
        if marker in (0x01, _START):
            position = found.end()
            continue
        if marker == _END:
            yield marker, data[start : found.end()]
            return
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        if marker == _SCAN:
            following = _MARKER.search(data, position)
            position = following.start() if following else len(data)
        yield marker, data[start:position]
    raise Undecodable(f"a JPEG of more than {MAX_PARTS:,} segments")


def png(data: bytes) -> Bare:
    """A PNG: the chunks without which there is no picture; of an animation the picture that stands for it.

    Raises:
        Undecodable: it has no end of chunks.
    """
    kept, exif, position = [data[:8]], b"", 8
    for _ in range(MAX_PARTS):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        chunk = data[position : position + 12 + length]
        position += len(chunk)
        if kind == b"eXIf" and not exif:
            exif = chunk[8:-4]
        if kind[:1].isupper():
            kept.append(chunk)
        if kind == b"IEND" or not chunk:
            return Bare(b"".join(kept), exif)
    raise Undecodable(f"a PNG of more than {MAX_PARTS:,} chunks")


def webp(data: bytes) -> Bare:
    """A WebP, whose metadata only libwebp passes over, quickly."""
    exif, position = b"", 12
    for _ in range(MAX_PARTS):
        kind, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind == b"EXIF" or not kind:
            exif = data[position + 8 : position + 8 + length]
            break
        position += 8 + length + length % 2
    return Bare(data, exif)


def ppm(data: bytes) -> Bare:
    """A PPM, whose header is read byte by byte, so that it has to end soon.

    Raises:
        Undecodable: it does not.
    """
    if not _PPM.match(data[:_PPM_HEADER]):
        raise Undecodable("a PPM without width, height and largest value")
    return Bare(data)


def bmp(data: bytes) -> Bare:
    """A BMP, which has no metadata."""
    return Bare(data)


def orientation(exif: bytes) -> int:
    """EXIF orientation, 1 (upright) where there is none or it says nonsense."""
    exif = exif.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (first,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, first)
        for place in range(count):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, first + 2 + 12 * place)
            if tag == _ORIENTATION and kind in _INTEGERS and values:
                (value,) = struct.unpack_from(order + _INTEGERS[kind], exif, first + 10 + 12 * place)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1  # pixels are good, only the metadata is broken
    return 1
