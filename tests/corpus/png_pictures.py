"""Strange PNGs."""

import io
import struct
import zlib

from corpus.strange import BAD, OK, PROFILE, Strange, blocks, deep, exif
from support import encode


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
