"""Removal of metadata from encoded images.

Profiles, comments, thumbnails and further images do not change the pixels, but a decoder that reads them may take any
time and memory, fail, or warn. The data that decides the pixels is left, and the EXIF block is returned apart.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SEGMENTS = 100_000
"""Segments of a JPEG, or chunks of a PNG or WebP."""

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # without those that are part of a scan
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_CODINGS = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_EXIF = b"Exif\0\0"
_APP1 = 0xE1
_METADATA = (*range(0xE1, 0xEE), 0xEF, 0xFE)
_COLOR_SEGMENT_BYTES = {0xE0: 18, 0xEE: 16}
"""Shortest segments of JFIF and Adobe, which define the color space, that libjpeg respects."""
_PPM = re.compile(rb"P(?:[14](?:%b){2}|[2356](?:%b){3})".replace(b"%b", rb"(?:\s|#[^\r\n]*[\r\n])+[0-9]+"))
_PPM_HEADER = 1 << 16


class UndecodableImageError(Exception):
    """Bytes that are not a usable image; the message is one sentence."""


@dataclass(frozen=True)
class StrippedImage:
    """An encoded image without its metadata.

    Attributes:
        data: encoded.
        exif: the EXIF block, empty if there is none.
        scans: of a JPEG, passes of a decoder over all pixels.
        codings: of a JPEG, the marker of each of its frames; a valid one has one, 0xC0 if it is baseline.
    """

    data: bytes
    exif: bytes = b""
    scans: int = 1
    codings: tuple[int, ...] = ()


def strip_jpeg(data: bytes) -> StrippedImage:
    """Strip a JPEG: keep its first image, without application segments and comments.

    Raises:
        UndecodableImageError: it has too many segments, or no image.
    """
    segments, exif, scans, codings = [data[:2]], b"", 0, []
    for marker, segment in _segments(data):
        if marker == _APP1 and segment[4:].startswith(_EXIF) and not exif:
            exif = segment[4:]
        scans += marker == _SCAN
        if marker in _CODINGS:
            codings.append(marker)
        if marker not in _METADATA and len(segment) >= _COLOR_SEGMENT_BYTES.get(marker, 0):
            segments.append(segment)
    if not scans:
        raise UndecodableImageError("a JPEG that is truncated or broken before its image")
    return StrippedImage(b"".join(segments), exif, scans, tuple(codings))


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and bytes of each segment up to the end of the first image; a scan includes its pixels."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, position)
        if match is None:
            return
        marker, start = match[1][0], match.end() - 2
        if marker in (0x01, _START):
            position = match.end()
            continue
        if marker == _END:
            yield marker, data[start : match.end()]
            return
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
        if marker == _SCAN:
            following = _MARKER.search(data, position)
            position = following.start() if following else len(data)
        yield marker, data[start:position]
    raise UndecodableImageError(f"a JPEG of more than {MAX_SEGMENTS:,} segments")


def strip_png(data: bytes) -> StrippedImage:
    """Strip a PNG: keep the critical chunks; of an animation only its default image.

    Raises:
        UndecodableImageError: it has too many chunks.
    """
    chunks, exif, position = [data[:8]], b"", 8
    for _ in range(MAX_SEGMENTS):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        chunk = data[position : position + 12 + length]
        position += len(chunk)
        if kind == b"eXIf" and not exif:
            exif = chunk[8:-4]
        if kind[:1].isupper():
            chunks.append(chunk)
        if kind == b"IEND" or not chunk:
            return StrippedImage(b"".join(chunks), exif)
    raise UndecodableImageError(f"a PNG of more than {MAX_SEGMENTS:,} chunks")


def strip_webp(data: bytes) -> StrippedImage:
    """Return a WebP as it is, since libwebp skips metadata quickly, and its EXIF block."""
    exif, position = b"", 12
    for _ in range(MAX_SEGMENTS):
        kind, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind == b"EXIF" or not kind:
            exif = data[position + 8 : position + 8 + length]
            break
        position += 8 + length + length % 2
    return StrippedImage(data, exif)


def strip_ppm(data: bytes) -> StrippedImage:
    """Return a PPM as it is. Pillow reads its header byte by byte, so the header must end early.

    Raises:
        UndecodableImageError: it does not.
    """
    if not _PPM.match(data[:_PPM_HEADER]):
        raise UndecodableImageError("a PPM without width, height and largest value")
    return StrippedImage(data)


def strip_bmp(data: bytes) -> StrippedImage:
    """Return a BMP as it is; it has no metadata."""
    return StrippedImage(data)
