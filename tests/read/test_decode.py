"""Pictures of every kind become the pixels that they show, and what does not is refused with a reason."""

import io

import numpy as np
import pytest
import torch
from corpus.png_pictures import png
from PIL import Image
from support import encode, jpeg
from timm.data import create_transform

from pipeline.read import PreprocessConfig, UndecodableImageError, decode_image

FRAME = PreprocessConfig(32, 32, "bicubic", "squash", 1.0, "center")


def quarters(mode: str = "RGB") -> Image.Image:
    """Red, green, blue, white; 32 × 32."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16, 0] = pixels[:16, 16:, 1] = pixels[16:, :16, 2] = 255
    pixels[16:, 16:] = 255
    return Image.fromarray(pixels).convert(mode)


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in pixels[:, y, x]) for y in (4, 27) for x in (4, 27)]


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "PNG"), ("RGB", "BMP"), ("RGB", "PPM"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "WEBP")],
)
def test_colours_survive_every_kind(mode: str, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert corners(decode_image(encode(quarters(mode), kind, **options), FRAME).pixels) == COLOURS


def test_a_cmyk_jpeg_has_its_colours() -> None:
    pixels = decode_image(encode(quarters("CMYK"), "JPEG", quality=100), FRAME).pixels
    assert np.abs(np.array(corners(pixels)) - COLOURS).max() < 12


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_greyscale_has_three_equal_channels(mode: str) -> None:
    pixels = decode_image(encode(quarters(mode), "PNG"), FRAME).pixels
    assert (pixels == pixels[0]).all()


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = Image.fromarray(np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32))
    pixels = decode_image(encode(ramp, "PNG"), FRAME).pixels
    assert pixels[0, 16, 0] == 128
    assert (np.diff(pixels[0].ravel().astype(int)) >= 0).all()


def test_a_png_called_jpeg_is_read_by_its_contents() -> None:
    assert corners(decode_image(encode(quarters(), "PNG"), FRAME).pixels) == COLOURS


def test_a_palette_with_transparency_warns_nobody() -> None:
    image = quarters("P")
    assert corners(decode_image(encode(image, "PNG", transparency=bytes([0, 128])), FRAME).pixels) == COLOURS


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = quarters().resize((48, 32))
    undo = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode_image(encode(stored, "PNG", exif=exif), FRAME)
    assert (picture.width, picture.height, picture.orientation) == (48, 32, orientation)
    assert corners(picture.pixels) == COLOURS


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"hello", "no JPEG, PNG"),
        (jpeg()[:300], "truncated or broken before its image"),
        (jpeg()[:-60], "truncated"),
        (encode(quarters(), "GIF"), "no JPEG, PNG"),
        (encode(quarters(), "PNG")[:60], "."),
        (encode(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), "no JPEG, PNG"),
        (png(12000, 9000, 1, 0, pixels=b""), "12000×9000 pixels are more than 100,000,000"),
        (png(20000, 20000, 1, 0, pixels=b""), "more than 100,000,000"),
    ],
    ids=["nothing", "text", "cut header", "cut jpeg", "gif", "cut png", "tiff", "large", "bomb"],
)
def test_what_is_no_picture_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableImageError, match=reason):
        decode_image(data, FRAME)


def timm_pixels(data: bytes, frame: PreprocessConfig) -> np.ndarray:
    """Pixels by timm's own evaluation transform, without its normalisation."""
    transform = create_transform(
        (3, frame.height, frame.width), interpolation=frame.interpolation, crop_pct=frame.crop_pct,
        crop_mode=frame.crop_mode, mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    tensor = transform(Image.open(io.BytesIO(data)).convert("RGB"))
    assert isinstance(tensor, torch.Tensor)
    return (tensor.numpy() * 255).round().astype(np.uint8)


@pytest.mark.parametrize("size", [(40, 30), (31, 57), (33, 33), (200, 61), (97, 300)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("width", "height", "crop_pct", "mode"),
    [(32, 32, 0.875, "center"), (32, 32, 0.9, "center"), (32, 32, 1.0, "center"), (32, 32, 0.95, "squash"),
     (48, 24, 0.9, "center"), (224, 224, 0.875, "center")],
)  # fmt: skip
def test_crop_is_timms_own_transform_to_the_pixel(
    size: tuple[int, int], interpolation: str, width: int, height: int, crop_pct: float, mode: str
) -> None:
    data = jpeg(3, size)
    frame = PreprocessConfig(width, height, interpolation, "crop", crop_pct, mode)
    assert np.array_equal(decode_image(data, frame).pixels, timm_pixels(data, frame))


@pytest.mark.parametrize("geometry", ["squash", "crop"])
@pytest.mark.parametrize("size", [(160, 96), (100, 180), (64, 64)])
def test_the_way_back_finds_the_place_in_the_original(geometry: str, size: tuple[int, int]) -> None:
    """A white block of known place is found again, within what the resize blurs."""
    width, height = size
    pixels = np.zeros((height, width), np.uint8)
    x, y = width // 2, height // 3
    pixels[y : y + 16, x : x + 16] = 255
    frame = PreprocessConfig(64, 64, "bilinear", geometry, 0.875, "center")
    picture = decode_image(encode(Image.fromarray(pixels), "PNG"), frame)
    rows, columns = np.nonzero(picture.pixels[0] > 127)
    place = picture.transform
    found_x = place.scale_x * (columns.mean() + 0.5) + place.offset_x
    found_y = place.scale_y * (rows.mean() + 0.5) + place.offset_y
    assert abs(found_x - (x + 8)) < 1.5
    assert abs(found_y - (y + 8)) < 1.5


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1)])
def test_thin_pictures_are_pictures(size: tuple[int, int]) -> None:
    data = encode(Image.new("RGB", size, (9, 9, 9)), "PNG")
    assert decode_image(data, FRAME).pixels.shape == (3, 32, 32)


def test_a_picture_that_would_grow_beyond_all_measure_before_the_crop_is_refused() -> None:
    data = encode(Image.new("L", (1, 60000)), "PNG")
    with pytest.raises(UndecodableImageError, match=r"1×60000 become 256×15360000 before the crop"):
        decode_image(data, PreprocessConfig(224, 224, "bicubic", "crop", 0.875, "center"))
    assert decode_image(data, PreprocessConfig(224, 224, "bicubic", "squash", 0.875, "center")).pixels.shape == (
        3,
        224,
        224,
    )


def test_sixteen_bits_of_many_rows_are_those_of_each_row() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (3000, 3000), dtype=np.uint16)
    pixels = decode_image(
        encode(Image.fromarray(values), "PNG"), PreprocessConfig(3000, 3000, "nearest", "squash", 1.0, "center")
    ).pixels
    assert np.array_equal(pixels[2], values >> 8)
