"""From an image to the pixels of a network's input, and from input pixels back to image pixels."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from schemas.errors import UsageError
from schemas.model import ModelRecord
from schemas.run import Exif, Geometry


@dataclass(frozen=True)
class CropTransform:
    """Transform of one image to the network's input: resize to ``size``, then crop at (``left``, ``top``).

    Attributes:
        size: width and height after the resize, in pixels.
        left, top: of the crop, in pixels of the resized image.
        scale_x … offset_y: the inverse, ``x_original = scale_x · x_input + offset_x``, in pixels measured from the
            upper left corner of the upper left pixel.
    """

    size: tuple[int, int]
    left: int
    top: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


@dataclass(frozen=True)
class PreprocessConfig:
    """Resize and crop that every image of a run goes through.

    Attributes:
        width, height: of the input, in pixels.
        interpolation: of the resize: ``bicubic``, ``bilinear``, ``nearest``, ``lanczos``, ``box``, ``hamming``.
        geometry: ``squash`` resizes the whole image; ``crop`` is the network's own evaluation transform.
        crop_pct, crop_mode: of that transform, as timm configures it.
        exif: ``apply`` turns images upright by their EXIF orientation, ``ignore`` takes them as they are stored.
    """

    width: int
    height: int
    interpolation: str
    geometry: Geometry
    crop_pct: float
    crop_mode: str
    exif: Exif = "apply"

    @classmethod
    def for_model(cls, model: ModelRecord, geometry: Geometry, exif: Exif = "apply") -> "PreprocessConfig":
        """Return the configuration of a model.

        Args:
            model: with its input size, interpolation and crop.
            geometry: ``squash`` or ``crop``.
            exif: ``apply`` or ``ignore``.

        Raises:
            UsageError: the model's own transform pads the image, so ``crop`` cannot be inverted.
        """
        height, width = model.input_size
        if geometry == "crop" and model.crop_mode not in ("center", "squash"):
            raise UsageError(f"{model.name}: crop mode {model.crop_mode!r} is not supported; use --geometry squash")
        return cls(width, height, model.interpolation, geometry, model.crop_pct, model.crop_mode, exif)

    def transform_for(self, width: int, height: int) -> CropTransform:
        """Return the transform of an upright image.

        Args:
            width: of the image, in pixels.
            height: of the image, in pixels.
        """
        size = self._resized_size(width, height) if self.geometry == "crop" else (self.width, self.height)
        left, top = round((size[0] - self.width) / 2), round((size[1] - self.height) / 2)
        scale_x, scale_y = width / size[0], height / size[1]
        return CropTransform(size, left, top, scale_x, scale_y, left * scale_x, top * scale_y)

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size before the center crop, to the pixel as in timm and torchvision."""
        goal_width, goal_height = math.floor(self.width / self.crop_pct), math.floor(self.height / self.crop_pct)
        if self.crop_mode == "squash":
            return goal_width, goal_height
        if goal_width == goal_height:  # the shorter side becomes the goal, the longer is truncated
            if width <= height:
                return goal_width, int(goal_width * height / width)
            return int(goal_height * width / height), goal_height
        ratio = min(width / goal_width, height / goal_height)
        return round(width / ratio), round(height / ratio)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB. 16-bit values are scaled, transparency is dropped."""
    if image.mode.startswith("I"):  # 16 bits; convert() would clip at 255 instead of scaling
        image = Image.fromarray(_to_eight_bits(image))
    if "transparency" in image.info:  # Pillow warns if it is dropped in one step
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_crop(image: Image.Image, config: PreprocessConfig, transform: CropTransform) -> NDArray[np.uint8]:
    """Resize and crop an image to the network's input.

    Args:
        image: RGB, upright.
        config: input size and interpolation.
        transform: of this image.

    Returns:
        uint8 [3, H, W].
    """
    resized = image.resize(transform.size, Image.Resampling[config.interpolation.upper()])
    box = (transform.left, transform.top, transform.left + config.width, transform.top + config.height)
    return np.ascontiguousarray(np.asarray(resized.crop(box)).transpose(2, 0, 1))


def _to_eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Scale 16-bit values to 8 bits, a few rows at a time to save memory."""
    pixels = np.empty((image.height, image.width), np.uint8)
    rows = max(1, (1 << 22) // image.width)
    for top in range(0, image.height, rows):
        strip = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        pixels[top : top + rows] = strip.clip(0, 65535) >> 8
    return pixels
