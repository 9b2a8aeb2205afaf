"""Strange pictures: each name with its bytes, and what is to become of its sample."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms
from support import encode, jpeg

from schemas.samples import SampleStatus

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


# JPEG


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
    """A JPEG of which all segments of one kind are gone."""
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


def exif(entries: Iterable[tuple[int, int, int, int]], count: int | None = None, first: int = 8) -> bytes:
    """An EXIF block of these tags, each with type, number and value."""
    packed = [struct.pack("<HHII", *entry) for entry in entries]
    number = len(packed) if count is None else count
    return b"II*\0" + struct.pack("<IH", first, number) + b"".join(packed) + b"\0\0\0\0"


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


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


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


# PNG


def chunk(kind: bytes, content: bytes, check: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if check is None else check
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(
    width: int = 8, height: int = 8, depth: int = 8, colour: int = 2, interlace: int = 0,
    pixels: bytes | None = None, before: bytes = b"", after: bytes = chunk(b"IEND", b""),
) -> bytes:  # fmt: skip
    """A PNG made by hand; its pixels are zeros unless they are given."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    rows = (
        bytes((1 + -(-width * channels * depth // 8)) * height * (2 if interlace else 1)) if pixels is None else pixels
    )
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(rows)) + after


def inserted(chunks: bytes) -> bytes:
    """A PNG with something behind its header."""
    data = encode(blocks(), "PNG")
    return data[:33] + chunks + data[33:]


def animated_png() -> bytes:
    buffer = io.BytesIO()
    blocks().save(buffer, "PNG", save_all=True, append_images=[blocks("L").convert("RGB")], default_image=True)
    return buffer.getvalue()


PLTE = chunk(b"PLTE", bytes(range(255)))
BOMB = zlib.compress(bytes(20_000_000), 9)

PNGS = {
    "png": Strange(lambda: encode(blocks(), "PNG"), OK),
    "png one bit": Strange(lambda: encode(blocks("1"), "PNG"), OK),
    "png two bits": Strange(lambda: png(depth=2, colour=0), OK),
    "png four bits": Strange(lambda: png(depth=4, colour=0), OK),
    "png sixteen bits": Strange(lambda: encode(deep(), "PNG"), OK),
    "png sixteen bits in colour": Strange(lambda: png(depth=16), OK),
    "png sixteen bits and alpha": Strange(lambda: png(depth=16, colour=6), OK),
    "png grey and alpha": Strange(lambda: encode(blocks("LA"), "PNG"), OK),
    "png palette": Strange(lambda: encode(blocks("P"), "PNG"), OK),
    "png palette with transparency": Strange(lambda: encode(blocks("P"), "PNG", transparency=bytes([0, 99])), OK),
    "png palette missing": Strange(lambda: png(colour=3), OK),
    "png palette short": Strange(
        lambda: png(colour=3, before=chunk(b"PLTE", b"\1\2\3"), pixels=b"\0\7\7\7\7\7\7\7\7" * 8), OK
    ),
    "png palette of odd length": Strange(lambda: png(colour=3, before=chunk(b"PLTE", b"\1\2\3\4")), OK),
    "png palette not needed": Strange(lambda: png(before=PLTE), OK),
    "png transparency of odd length": Strange(lambda: png(before=chunk(b"tRNS", b"\1")), OK),
    "png interlaced": Strange(lambda: png(interlace=1), OK),
    "png one pixel": Strange(lambda: png(1, 1), OK),
    "png thin": Strange(lambda: png(1, 65500), OK),
    "png animated": Strange(animated_png, OK),
    "png animated with no frames": Strange(lambda: inserted(chunk(b"acTL", bytes(8))), OK),
    "png animation control cut": Strange(lambda: inserted(chunk(b"acTL", b"\1")), OK),
    "png frame control of noise": Strange(lambda: inserted(chunk(b"fcTL", b"\xff" * 26)), OK),
    "png text bomb": Strange(lambda: inserted(chunk(b"zTXt", b"a\0\0" + BOMB)), OK),
    "png many text bombs": Strange(lambda: inserted(chunk(b"zTXt", b"a\0\0" + BOMB) * 50), OK),
    "png international text of noise": Strange(lambda: inserted(chunk(b"iTXt", b"\xff" * 99)), OK),
    "png profile bomb": Strange(lambda: inserted(chunk(b"iCCP", b"a\0\0" + BOMB)), OK),
    "png profile of noise": Strange(lambda: inserted(chunk(b"iCCP", b"\xff" * 99)), OK),
    "png profile": Strange(lambda: encode(blocks(), "PNG", icc_profile=PROFILE), OK),
    "png orientation": Strange(lambda: inserted(chunk(b"eXIf", exif([(0x0112, 3, 1, 8)]))), OK),
    "png exif of noise": Strange(lambda: inserted(chunk(b"eXIf", b"\xff" * 99)), OK),
    "png exif asking for gigabytes": Strange(
        lambda: inserted(chunk(b"eXIf", exif([(tag, 7, 700_000, 8) for tag in range(60_000)]))), OK
    ),
    "png empty headers": Strange(
        lambda: inserted(b"".join(chunk(kind, b"") for kind in (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"sBIT"))),
        OK,
    ),
    "png many chunks": Strange(lambda: inserted(chunk(b"teSt", b"") * 90_000), OK),
    "png too many chunks": Strange(lambda: inserted(chunk(b"teSt", b"") * 100_001), BAD),
    "png wrong checksum of a text": Strange(lambda: inserted(chunk(b"tEXt", b"a\0b", check=7)), OK),
    "png wrong checksum of its header": Strange(lambda: png()[:29] + b"\0\0\0\0" + png()[33:], BAD),
    "png unknown chunk that matters": Strange(lambda: inserted(chunk(b"TEST", b"x")), OK),
    "png something behind": Strange(lambda: png() + bytes(10_000), OK),
    "png more pixels than it has": Strange(lambda: png(pixels=bytes(50_000_000)), OK),
    "png fewer pixels than it has": Strange(lambda: png(pixels=bytes(99)), BAD),
    "png no such filter": Strange(lambda: png(pixels=(b"\x63" + bytes(24)) * 8), BAD),
    "png pixels not packed": Strange(lambda: png()[:33] + chunk(b"IDAT", b"\xff" * 99) + chunk(b"IEND", b""), BAD),
    "png pixels spoiled": Strange(lambda: (d := encode(blocks(), "PNG"))[:60] + b"\x55" * 8 + d[68:], BAD),
    "png without pixels": Strange(lambda: png()[:33] + chunk(b"IEND", b""), BAD),
    "png without its end": Strange(lambda: png(after=b""), OK),
    "png cut in its pixels": Strange(lambda: encode(blocks(size=(300, 300)), "PNG")[:-200], BAD),
    "png cut in its header": Strange(lambda: png()[:20], BAD),
    "png signature only": Strange(lambda: png()[:8], BAD),
    "png of no width": Strange(lambda: png(0, 8), BAD),
    "png claiming to be huge": Strange(lambda: png(2**31 - 1, 2**31 - 1, pixels=b""), BAD),
    "png claiming to be large": Strange(lambda: png(9000, 9000, pixels=b""), BAD),
    "png of 3 bits": Strange(lambda: png(depth=3, colour=0), BAD),
    "png of no such colours": Strange(lambda: png(colour=5), BAD),
    "png of no such interlace": Strange(lambda: png(interlace=2), OK),
    "png chunk beyond its end": Strange(lambda: png()[:33] + b"\x7f\xff\xff\xffIDAT" + png()[41:], OK),
    "png two headers": Strange(lambda: inserted(png(20000, 20000, pixels=b"")[8:33]), BAD),
    "png with changed line ends": Strange(lambda: png().replace(b"\r\n", b"\n"), BAD),
}


# WebP


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def lossless() -> bytes:
    return encode(blocks(), "WEBP", lossless=True)


def animated_webp() -> bytes:
    buffer = io.BytesIO()
    blocks().save(buffer, "WEBP", save_all=True, append_images=[blocks("L").convert("RGB")] * 3, duration=9)
    return buffer.getvalue()


WEBPS = {
    "webp": Strange(lambda: encode(blocks(), "WEBP"), OK),
    "webp lossless": Strange(lossless, OK),
    "webp alpha": Strange(lambda: encode(blocks("RGBA"), "WEBP"), OK),
    "webp animated": Strange(animated_webp, OK),
    "webp orientation": Strange(lambda: encode(blocks(), "WEBP", exif=b"Exif\0\0" + exif([(0x0112, 3, 1, 6)])), OK),
    "webp exif of noise": Strange(lambda: encode(blocks(), "WEBP", exif=b"\xff" * 99), OK),
    "webp exif asking for gigabytes": Strange(
        lambda: encode(blocks(), "WEBP", exif=exif([(tag, 7, 700_000, 8) for tag in range(60_000)])), OK
    ),
    "webp profile of noise": Strange(lambda: encode(blocks(), "WEBP", icc_profile=b"\xff" * 99), OK),
    "webp one pixel": Strange(lambda: encode(blocks(size=(1, 1)), "WEBP"), OK),
    "webp something behind": Strange(lambda: lossless() + bytes(999), OK),
    "webp cut": Strange(lambda: lossless()[:-40], BAD),
    "webp cut in its header": Strange(lambda: lossless()[:22], BAD),
    "webp header only": Strange(lambda: riff(), BAD),
    "webp canvas only": Strange(lambda: riff(canvas(40, 30)), BAD),
    "webp canvas of 268 million pixels": Strange(lambda: riff(canvas(16383, 16383), (b"VP8L", lossless()[20:])), BAD),
    "webp canvas beyond measure": Strange(lambda: riff(canvas(1 << 24, 1 << 24)), BAD),
    "webp canvas of another size": Strange(lambda: riff(canvas(90, 90), (b"VP8L", lossless()[20:])), BAD),
    "webp animation without frames": Strange(lambda: riff(canvas(40, 30, 2), (b"ANIM", bytes(6))), BAD),
    "webp frame outside of its canvas": Strange(
        lambda: riff(canvas(40, 30, 2), (b"ANIM", bytes(6)), (b"ANMF", b"\xff" * 16 + lossless()[12:])), BAD
    ),
    "webp spoiled": Strange(lambda: lossless()[:24] + b"\xff" * 20 + lossless()[44:], BAD),
    "webp claiming to be long": Strange(lambda: b"RIFF\xff\xff\xff\xff" + lossless()[8:], BAD),
}


# PPM

PIXELS = bytes(range(256)) * 12

PPMS = {
    "ppm": Strange(lambda: encode(blocks(), "PPM"), OK),
    "ppm grey": Strange(lambda: b"P5 32 32 255\n" + PIXELS, OK),
    "ppm bits": Strange(lambda: b"P4 32 32\n" + PIXELS, OK),
    "ppm plain bits": Strange(lambda: b"P1 4 2\n0101 1010", OK),
    "ppm plain grey": Strange(lambda: b"P2 2 2 9 1 2\n3 9", OK),
    "ppm plain": Strange(lambda: b"P3 1 2 255 1 2 3 4 5 6", OK),
    "ppm plain with comments": Strange(lambda: b"P3 # a\n1 2 # b\n255 1 2 # c\n3 4 5 6", OK),
    "ppm of another maximum": Strange(lambda: b"P6 8 8 100\n" + bytes(range(100)) * 2, OK),
    "ppm sixteen bits": Strange(lambda: encode(deep(), "PPM"), OK),
    "ppm sixteen bits in colour": Strange(lambda: b"P6 8 8 65535\n" + PIXELS, OK),
    "ppm twelve bits": Strange(lambda: b"P5 8 8 4095\n" + b"\1\2" * 64, OK),
    "ppm something behind": Strange(lambda: encode(blocks(), "PPM") + bytes(999), OK),
    "ppm cut": Strange(lambda: encode(blocks(), "PPM")[:-9], BAD),
    "ppm plain cut": Strange(lambda: b"P3 2 2 255 1 2 3 4 5", BAD),
    "ppm plain of words": Strange(lambda: b"P3 1 1 255 red green blue", BAD),
    "ppm plain negative": Strange(lambda: b"P2 1 1 255 -3", BAD),
    "ppm plain above its maximum": Strange(lambda: b"P2 1 1 9 10", BAD),
    "ppm plain number without end": Strange(lambda: b"P2 1 1 9 " + b"1" * 99_999, BAD),
    "ppm header only": Strange(lambda: b"P6 8 8 255\n", BAD),
    "ppm magic only": Strange(lambda: b"P6\n", BAD),
    "ppm of no width": Strange(lambda: b"P6 0 8 255\n" + PIXELS, BAD),
    "ppm of negative width": Strange(lambda: b"P6 -8 8 255\n" + PIXELS, BAD),
    "ppm claiming to be huge": Strange(lambda: b"P6 999999999 999999999 255\n" + PIXELS, BAD),
    "ppm claiming to be large": Strange(lambda: b"P6 9000 9000 255\n" + PIXELS, BAD),
    "ppm plain claiming to be large": Strange(lambda: b"P3 9000 9000 255\n" + PIXELS, BAD),
    "ppm of no maximum": Strange(lambda: b"P6 8 8 0\n" + PIXELS, BAD),
    "ppm maximum too large": Strange(lambda: b"P6 8 8 65536\n" + PIXELS, BAD),
    "ppm of a long number": Strange(lambda: b"P6 " + b"9" * 60_000 + b" 8 255\n" + PIXELS, BAD),
    "ppm comment without end": Strange(lambda: b"P6 #" + b"x" * 3_000_000, BAD),
    "ppm spaces without end": Strange(lambda: b"P6 " + b" " * 3_000_000, BAD),
    "ppm of floats": Strange(lambda: b"PF 2 2 -1.0\n" + bytes(48), BAD),
    "ppm arbitrary map": Strange(lambda: b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + bytes(12), BAD),
}


# BMP


def bmp(
    width: int = 8, height: int = 8, bits: int = 24, kind: int = 0, pixels: bytes = bytes(4096),
    colours: int = 0, size: int = 40, offset: int | None = None,
) -> bytes:  # fmt: skip
    palette = bytes(range(256)) * 4 if bits <= 8 else b""
    start = 54 + len(palette) if offset is None else offset
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, kind, len(pixels), 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(palette) + len(pixels), 0, 0, start) + header + palette + pixels


BMPS = {
    "bmp": Strange(lambda: encode(blocks(), "BMP"), OK),
    "bmp palette": Strange(lambda: encode(blocks("P"), "BMP"), OK),
    "bmp bits": Strange(lambda: encode(blocks("1"), "BMP"), OK),
    "bmp four bits": Strange(lambda: bmp(bits=4), OK),
    "bmp sixteen bits": Strange(lambda: bmp(bits=16), OK),
    "bmp thirty-two bits": Strange(lambda: bmp(bits=32), OK),
    "bmp from its top": Strange(lambda: bmp(height=-8), OK),
    "bmp of runs": Strange(lambda: bmp(bits=8, kind=1, pixels=b"\x08\x07\0\0" * 8 + b"\0\1"), OK),
    "bmp of runs cut": Strange(lambda: bmp(bits=8, kind=1, pixels=b"\x08\x07" * 3), BAD),
    "bmp of runs that leave it": Strange(lambda: bmp(bits=8, kind=1, pixels=b"\0\2\xff\xff" * 9), OK),
    "bmp of runs claiming to be large": Strange(lambda: bmp(9000, 9000, bits=8, kind=1, pixels=b"\0\0" * 99), BAD),
    "bmp of masks of noise": Strange(lambda: bmp(bits=16, kind=3, pixels=b"\x55" * 4096), BAD),
    "bmp of jpeg": Strange(lambda: bmp(kind=4, pixels=jpeg()), BAD),
    "bmp of png": Strange(lambda: bmp(kind=5, pixels=png()), BAD),
    "bmp of 7 bits": Strange(lambda: bmp(bits=7), BAD),
    "bmp of no header": Strange(lambda: bmp(size=0), BAD),
    "bmp header beyond its end": Strange(lambda: bmp(size=99_999), BAD),
    "bmp of many colours": Strange(lambda: bmp(bits=8, colours=2**31), BAD),
    "bmp pixels beyond its end": Strange(lambda: bmp(offset=10**6), BAD),
    "bmp of no width": Strange(lambda: bmp(width=0), BAD),
    "bmp of negative width": Strange(lambda: bmp(width=-8), BAD),
    "bmp claiming to be huge": Strange(lambda: bmp(2**31 - 1, 2**31 - 1), BAD),
    "bmp lowest height": Strange(lambda: bmp(height=-(2**31)), BAD),
    "bmp cut": Strange(lambda: encode(blocks(), "BMP")[:-99], BAD),
    "bmp magic only": Strange(lambda: b"BM", BAD),
}


OTHERS = {
    "nothing": Strange(lambda: b"", BAD),
    "one byte": Strange(lambda: b"\xff", BAD),
    "zeros": Strange(lambda: bytes(10_000), BAD),
    "ones": Strange(lambda: b"\xff" * 10_000, BAD),
    "noise": Strange(lambda: np.random.default_rng(0).bytes(10_000), BAD),
    "text": Strange(lambda: b"see other server", BAD),
    "html": Strange(lambda: b"<!DOCTYPE html><title>404 Not Found</title>", BAD),
    "svg": Strange(lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", BAD),
    "gif": Strange(lambda: encode(blocks("P"), "GIF"), BAD),
    "tiff": Strange(lambda: encode(blocks(), "TIFF"), BAD),
    "ico": Strange(lambda: encode(blocks(), "ICO"), BAD),
    "tga": Strange(lambda: encode(blocks(), "TGA"), BAD),
    "jpeg 2000": Strange(lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), BAD),
    "heic": Strange(lambda: b"\0\0\0\x18ftypheic" + bytes(99), BAD),
    "postscript": Strange(lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file\n", BAD),
    "pdf": Strange(lambda: b"%PDF-1.7\n", BAD),
    "zip": Strange(lambda: b"PK\5\6" + bytes(18), BAD),
    "pickle": Strange(lambda: b"cos\nsystem\n(S'touch executed'\ntR.", BAD),
    "link of git lfs": Strange(lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", BAD),
}

PICTURES: dict[str, Strange] = JPEGS | PNGS | WEBPS | PPMS | BMPS | OTHERS
