"""Strange pictures of every format: each name with its bytes, and what is to become of its sample."""

import io
import struct

import numpy as np
from corpus.jpeg_pictures import JPEGS
from corpus.png_pictures import PNGS, png
from corpus.strange import BAD, OK, Strange, blocks, deep, exif
from support import encode, jpeg

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
