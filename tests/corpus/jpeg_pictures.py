"""Strange JPEGs."""

import io
import struct

from corpus.strange import BAD, OK, PROFILE, Strange, blocks, exif
from support import encode, jpeg


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segments(segments: bytes, data: bytes | None = None) -> bytes:
    """A JPEG with something behind the mark of its start, in the place of what said how its colours are coded."""
    data = data or jpeg()
    return data[:2] + segments + data[4 + int.from_bytes(data[4:6], "big") :]


def frame(data: bytes) -> int:
    """Where the frame header of a JPEG stands."""
    return next(at for at in range(len(data)) if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC2))


def resized(data: bytes, width: int, height: int) -> bytes:
    """A JPEG that claims to have another size."""
    at = frame(data)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def at_frame(offset: int, value: int) -> bytes:
    data = bytearray(jpeg())
    data[frame(data) + offset] = value
    return bytes(data)


def without(marker: int) -> bytes:
    """A JPEG without its segments of one marker."""
    data, kept, position = jpeg(), [], 2
    while data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] != marker:
            kept.append(data[position:end])
        position = end
    return data[:2] + b"".join(kept) + data[position:]


def repeated_scans(times: int, size: tuple[int, int]) -> bytes:
    data = encode(blocks(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return resized(data[:-2] + data[last:-2] * times + data[-2:], *size)


def with_exif(block: bytes) -> bytes:
    return with_segments(segment(0xE1, b"Exif\0\0" + block))


def rotated(value: int, kind: int = 3, number: int = 1) -> bytes:
    return with_exif(exif([(0x0112, kind, number, value)]))


def long_exif() -> bytes:
    """Many tags that each ask for the same many bytes, over several segments: gigabytes, if it is believed."""
    block = exif([(1000 + tag, 7, 190_000, 8) for tag in range(16_000)])
    parts = [block[at : at + 60_000] for at in range(0, len(block), 60_000)]
    return with_segments(b"".join(segment(0xE1, b"Exif\0\0" + part) for part in parts))


def multi_picture() -> bytes:
    buffer = io.BytesIO()
    blocks().save(buffer, "MPO", save_all=True, append_images=[blocks(), blocks()])
    return buffer.getvalue()


def adobe(transform: int, mode: str = "CMYK") -> bytes:
    """A JPEG whose Adobe segment says how its colours are coded."""
    return with_segments(
        segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform)), encode(blocks(mode), "JPEG")
    )


def profiles(count: int, content: bytes) -> bytes:
    parts = (segment(0xE2, b"ICC_PROFILE\0" + bytes([at % 255 + 1, count % 256]) + content) for at in range(count))
    return with_segments(b"".join(parts))


def spoiled(at: float, length: int = 8) -> bytes:
    """A JPEG with noise in its scan."""
    data = encode(blocks(size=(200, 200)), "JPEG")
    place = data.index(b"\xff\xda") + 20 + int(at * (len(data) - data.index(b"\xff\xda") - 40))
    return data[:place] + b"\x55" * length + data[place + length :]


JPEGS = {
    "jpeg": Strange(jpeg, OK),
    "jpeg progressive": Strange(lambda: encode(blocks(), "JPEG", progressive=True), OK),
    "jpeg grey": Strange(lambda: encode(blocks("L"), "JPEG"), OK),
    "jpeg cmyk": Strange(lambda: encode(blocks("CMYK"), "JPEG"), OK),
    "jpeg cmyk of adobe": Strange(lambda: adobe(0), OK),
    "jpeg ycck of adobe": Strange(lambda: adobe(2), OK),
    "jpeg adobe with no such transform": Strange(lambda: adobe(77, "RGB"), OK),
    "jpeg adobe cut": Strange(lambda: with_segments(segment(0xEE, b"Adobe")), OK),
    "jpeg restart markers": Strange(lambda: encode(blocks(size=(90, 90)), "JPEG", restart_marker_rows=1), OK),
    "jpeg one pixel": Strange(lambda: jpeg(size=(1, 1)), OK),
    "jpeg thin": Strange(lambda: jpeg(size=(1, 65500)), OK),
    "jpeg flat": Strange(lambda: jpeg(size=(65500, 1)), OK),
    "jpeg several pictures": Strange(multi_picture, OK),
    "jpeg several pictures with a broken index": Strange(
        lambda: with_segments(segment(0xE2, b"MPF\0II*\0" + b"\xff" * 40)), OK
    ),
    "jpeg exif of noise": Strange(lambda: with_exif(bytes(range(256)) * 20), OK),
    "jpeg exif empty": Strange(lambda: with_exif(b""), OK),
    "jpeg exif cut": Strange(lambda: with_exif(exif([(0x0112, 3, 1, 6)], count=9)), OK),
    "jpeg exif pointing outside": Strange(lambda: with_exif(exif([], first=0xFFFFFFFF)), OK),
    "jpeg exif pointing to itself": Strange(lambda: with_exif(exif([(0x8769, 4, 1, 8)])), OK),
    "jpeg exif asking for gigabytes": Strange(long_exif, OK),
    "jpeg orientation 0": Strange(lambda: rotated(0), OK),
    "jpeg orientation 6": Strange(lambda: rotated(6), OK),
    "jpeg orientation 9": Strange(lambda: rotated(9), OK),
    "jpeg orientation as text": Strange(lambda: rotated(6, kind=2), OK),
    "jpeg orientation twice": Strange(lambda: rotated(6, number=2), OK),
    "jpeg xmp of noise": Strange(
        lambda: with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6")), OK
    ),
    "jpeg photoshop of noise": Strange(lambda: with_segments(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\xff" * 99)), OK),
    "jpeg jfif without density": Strange(lambda: with_segments(segment(0xE0, b"JFIF\0\1")), OK),
    "jpeg profile": Strange(lambda: encode(blocks(), "JPEG", icc_profile=PROFILE), OK),
    "jpeg profile of noise": Strange(lambda: profiles(3, b"\xff" * 1000), OK),
    "jpeg profile of 16 MB": Strange(lambda: profiles(255, bytes(65000)), OK),
    "jpeg comment": Strange(lambda: with_segments(segment(0xFE, bytes(65000))), OK),
    "jpeg many segments": Strange(lambda: with_segments(segment(0xE5, b"") * 90_000), OK),
    "jpeg too many segments": Strange(lambda: with_segments(segment(0xE5, b"") * 100_001), BAD),
    "jpeg filled up": Strange(lambda: with_segments(b"\xff" * 3_000_000), OK),
    "jpeg filled up without end": Strange(lambda: jpeg()[:200] + b"\xff" * 3_000_000, BAD),
    "jpeg junk between segments": Strange(lambda: with_segments(segment(0xFE, b"") + bytes(3_000_000)), OK),
    "jpeg segment of no length": Strange(lambda: with_segments(b"\xff\xe5\0\0"), OK),
    "jpeg segment beyond its end": Strange(lambda: jpeg()[:20] + b"\xff\xe5\xff\xff" + jpeg()[20:], BAD),
    "jpeg something behind": Strange(lambda: jpeg() + bytes(range(256)) * 400, OK),
    "jpeg scans behind its end": Strange(lambda: jpeg() + b"\xff\xda\0\2" * 100_000, OK),
    "jpeg twice": Strange(lambda: jpeg() + jpeg(2), OK),
    "jpeg spoiled early": Strange(lambda: spoiled(0.1), OK),
    "jpeg spoiled late": Strange(lambda: spoiled(0.9), OK),
    "jpeg cut in its scan": Strange(lambda: encode(blocks(size=(200, 200)), "JPEG")[:-900], BAD),
    "jpeg cut in its header": Strange(lambda: jpeg()[:300], BAD),
    "jpeg cut behind its frame": Strange(lambda: jpeg()[: frame(jpeg()) + 30], BAD),
    "jpeg without its end": Strange(lambda: jpeg()[:-2], BAD),
    "jpeg start only": Strange(lambda: b"\xff\xd8\xff", BAD),
    "jpeg start and end": Strange(lambda: b"\xff\xd8\xff\xd9", BAD),
    "jpeg scan without a frame": Strange(lambda: b"\xff\xd8" + jpeg()[jpeg().index(b"\xff\xda") :], BAD),
    "jpeg without tables": Strange(lambda: without(0xDB), BAD),
    "jpeg without a frame": Strange(lambda: without(0xC0), BAD),
    "jpeg of no height": Strange(lambda: resized(jpeg(), 40, 0), BAD),
    "jpeg of no width": Strange(lambda: resized(jpeg(), 0, 30), BAD),
    "jpeg claiming to be huge": Strange(lambda: resized(jpeg(), 65535, 65535), BAD),
    "jpeg claiming to be larger": Strange(lambda: resized(jpeg(), 900, 900), OK),
    "jpeg of 12 bits": Strange(lambda: at_frame(4, 12), BAD),
    "jpeg of 5 components": Strange(lambda: at_frame(9, 5), BAD),
    "jpeg of 2 components": Strange(lambda: at_frame(9, 2), BAD),
    "jpeg claiming to be lossless": Strange(lambda: at_frame(1, 0xC3), BAD),
    "jpeg claiming to be hierarchical": Strange(lambda: at_frame(1, 0xC5), BAD),
    "jpeg of thousands of scans": Strange(lambda: repeated_scans(3000, (3000, 3000)), BAD),
    "jpeg of many scans": Strange(lambda: repeated_scans(300, (40, 30)), OK),
}
