"""Which JPEGs any decoder can take: told by their headers, and what the others are instead."""

import io
import struct

import pytest
from PIL import Image
from support import encode, jpeg

from pipeline.read import BaselineJpeg, PreprocessConfig, decode_image, parse_baseline_jpeg
from pipeline.read.baseline_jpeg import MAX_BASELINE_PIXELS, MAX_SHRINK

FRAME = PreprocessConfig(32, 32, "bicubic", "squash", 1.0, "center")


def photo(mode: str = "RGB") -> Image.Image:
    return Image.open(io.BytesIO(jpeg(1, (60, 40)))).convert(mode)


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The same JPEG, whose header claims another size."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


@pytest.mark.parametrize("mode", ["RGB", "L", "YCbCr"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_an_ordinary_jpeg_is_plain_and_all_is_known_of_it_but_its_pixels(mode: str, subsampling: str) -> None:
    data = encode(photo(mode), "JPEG", subsampling=subsampling, comment=b"left away")
    found, picture = parse_baseline_jpeg(data, FRAME), decode_image(data, FRAME)
    assert isinstance(found, BaselineJpeg)
    assert found.grayscale == (mode == "L")
    assert found.original == data
    assert b"left away" not in found.data
    for name in ("width", "height", "orientation", "transform", "sha256", "size", "fallback"):
        assert getattr(found.image, name) == getattr(picture, name), name


EXIF = Image.Exif()
EXIF[0x0112] = 6
MARKED = Image.Exif()
MARKED[0x0112] = 1
DATA = encode(photo(), "JPEG")
AWKWARD = {
    "PNG": encode(photo(), "PNG"),
    "WEBP": encode(photo(), "WEBP"),
    "PPM": encode(photo(), "PPM"),
    "BMP": encode(photo(), "BMP"),
    "CMYK": encode(photo("CMYK"), "JPEG"),
    "colors": encode(photo(), "JPEG", keep_rgb=True),
    "orientation": encode(photo(), "JPEG", exif=EXIF),
    "not baseline": encode(photo(), "JPEG", progressive=True),
    "truncated": DATA[:-2],
    "sampling": DATA.replace(b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01", b"\x03\x01\x22\x00\x02\x12\x01\x03\x12\x01"),
    "several scans": DATA[:-2] + DATA[DATA.index(b"\xff\xda") :],
    "large": with_size(DATA, 8000, MAX_BASELINE_PIXELS // 8000 + 1),
    "undecodable": with_size(DATA, 65000, 65000),
}


@pytest.mark.parametrize("reason", AWKWARD)
def test_what_decoders_may_differ_in_is_not_plain(reason: str) -> None:
    assert parse_baseline_jpeg(AWKWARD[reason], FRAME) == reason


def test_two_frames_in_one_jpeg_are_not_plain() -> None:
    start = DATA.index(b"\xff\xc0")
    segment = DATA[start : start + 2 + int.from_bytes(DATA[start + 2 : start + 4], "big")]
    assert parse_baseline_jpeg(DATA[:start] + segment + DATA[start:], FRAME) in ("not baseline", "undecodable")


def test_adobe_colours_are_plain_where_they_are_ycbcr() -> None:
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    assert isinstance(parse_baseline_jpeg(DATA[:2] + adobe + b"\x01" + DATA[2:], FRAME), BaselineJpeg)
    assert parse_baseline_jpeg(DATA[:2] + adobe + b"\x00" + DATA[2:], FRAME) == "colors"


def test_an_orientation_that_says_upright_is_plain() -> None:
    assert isinstance(parse_baseline_jpeg(encode(photo(), "JPEG", exif=MARKED), FRAME), BaselineJpeg)


def test_what_becomes_too_large_by_its_resize_is_not_plain() -> None:
    long = encode(Image.new("RGB", (20, 1010)), "JPEG")
    assert isinstance(parse_baseline_jpeg(long, FRAME), BaselineJpeg)
    assert parse_baseline_jpeg(long, PreprocessConfig(800, 800, "bicubic", "crop", 1.0, "center")) == "large"


def test_what_becomes_too_small_by_its_resize_is_not_plain() -> None:
    long = encode(Image.new("RGB", (32 * MAX_SHRINK + 8, 32)), "JPEG")
    assert parse_baseline_jpeg(long, FRAME) == "large"
    assert isinstance(parse_baseline_jpeg(encode(Image.new("RGB", (32 * MAX_SHRINK, 32)), "JPEG"), FRAME), BaselineJpeg)
