"""Where a network's input lies in the original picture: the resize, the crop, and the way back."""

import math
from dataclasses import dataclass

from schemas.errors import UsageError
from schemas.run import Geometry, ModelRecord


@dataclass(frozen=True)
class Placement:
    """How one picture becomes an input: resized to ``size``, then cut from (``left``, ``top``).

    Attributes:
        size: width and height after the resize.
        left, top: of the cut, in pixels of the resized picture.
        scale_x … offset_y: the way back, ``x_original = scale_x · x_input + offset_x``, in pixels measured
            from the upper left corner of the upper left pixel.
    """

    size: tuple[int, int]
    left: int
    top: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


@dataclass(frozen=True)
class Frame:
    """What every picture of a run is brought to.

    Attributes:
        width, height: of the input, in pixels.
        interpolation: of the resize: ``bicubic``, ``bilinear``, ``nearest``, ``lanczos``, ``box``, ``hamming``.
        geometry: ``squash``, the whole picture; or ``crop``, the network's own evaluation transform.
        crop_pct, crop_mode: of that transform, as timm configures it.
    """

    width: int
    height: int
    interpolation: str
    geometry: Geometry
    crop_pct: float
    crop_mode: str

    @classmethod
    def of(cls, model: ModelRecord, geometry: Geometry) -> "Frame":
        """The frame of a model.

        Raises:
            UsageError: the model's own transform pads the picture, so ``crop`` has no way back.
        """
        height, width = model.input_size
        if geometry == "crop" and model.crop_mode not in ("center", "squash"):
            raise UsageError(
                f"{model.name} crops by {model.crop_mode!r}, which is not known here; use --geometry squash"
            )
        return cls(width, height, model.interpolation, geometry, model.crop_pct, model.crop_mode)

    def place(self, width: int, height: int) -> Placement:
        """The placement of a picture of this size, in pixels."""
        size = self._resized(width, height) if self.geometry == "crop" else (self.width, self.height)
        left, top = round((size[0] - self.width) / 2), round((size[1] - self.height) / 2)
        scale_x, scale_y = width / size[0], height / size[1]
        return Placement(size, left, top, scale_x, scale_y, left * scale_x, top * scale_y)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Size before the centre crop, to the pixel as timm and torchvision have it."""
        goal_w, goal_h = math.floor(self.width / self.crop_pct), math.floor(self.height / self.crop_pct)
        if self.crop_mode == "squash":
            return goal_w, goal_h
        if goal_w == goal_h:  # the shorter side becomes the goal, the longer is truncated
            if width <= height:
                return goal_w, int(goal_w * height / width)
            return int(goal_h * width / height), goal_h
        ratio = min(width / goal_w, height / goal_h)
        return round(width / ratio), round(height / ratio)
