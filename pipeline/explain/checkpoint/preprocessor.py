"""``preprocessor_config.json`` of transformers: how images are prepared for a network."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from pipeline.explain.checkpoint.beside import read_beside
from pipeline.explain.checkpoint.model_config import ImageConfig
from pipeline.explain.checkpoint.open_clip_config import OpenClipConfig
from schemas.base import Finite, Record
from schemas.errors import UsageError
from schemas.model import Size

FILE = "preprocessor_config.json"

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Interpolation = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
_RESAMPLE: tuple[_Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Interpolations by their numbers in Pillow."""


class PreprocessorConfig(Record):
    """The fields that decide a result.

    Attributes:
        do_normalize: subtract the mean and divide by the standard deviation.
        image_mean: of each channel, for pixels in [0, 1].
        image_std: of each channel.
        do_rescale: multiply the pixels, 0 to 255, by ``rescale_factor``.
        rescale_factor: 1/255 gives the pixels in [0, 1] that mean and deviation are of.
        resample: interpolation of the resize, as Pillow numbers it.
        size: of the resize: ``height`` and ``width``, or ``shortest_edge``.
        do_center_crop: crop to ``crop_size`` behind it.
        crop_size: of the crop.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    do_normalize: bool = True
    image_mean: tuple[Finite, Finite, Finite] | None = None
    image_std: tuple[_Positive, _Positive, _Positive] | None = None
    do_rescale: bool = True
    rescale_factor: Finite = 1 / 255
    resample: Annotated[int, Field(ge=0, lt=len(_RESAMPLE))] | None = None
    size: dict[str, Size] | Size | None = None
    do_center_crop: bool = False
    crop_size: dict[str, Size] | Size | None = None

    @property
    def images(self) -> ImageConfig:
        """The same in timm's terms."""
        mean, std = (self.image_mean, self.image_std) if self.do_normalize else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        resized, cropped = _edge(self.size), _edge(self.crop_size) if self.do_center_crop else None
        squash = isinstance(self.size, dict) and "shortest_edge" not in self.size
        return ImageConfig(
            mean=mean,
            std=std,
            interpolation=None if self.resample is None else _RESAMPLE[self.resample],
            crop_pct=cropped / resized if cropped and resized else 1.0,
            crop_mode="squash" if squash or not cropped else "center",
        )


def images_beside(path: str) -> ImageConfig | None:
    """Read the file in the folder of a weights file, or that of open_clip; None if there is none.

    Raises:
        UsageError: it is broken.
    """
    file, content = read_beside(path, FILE)
    if content is None:
        other = OpenClipConfig.beside(path)
        return other.images if other else None
    config = PreprocessorConfig.read(content, file)
    if not config.do_rescale or abs(config.rescale_factor * 255 - 1) > 1e-6:
        raise UsageError(
            f"{file}: pixels are to be multiplied by {config.rescale_factor if config.do_rescale else 1:g}, and only "
            "1/255 is supported; prepare the network for pixels in [0, 1], and correct image_mean and image_std"
        )
    if config.do_normalize and not (config.image_mean and config.image_std):
        raise UsageError(f"{file}: has no image_mean and image_std; add them, or set do_normalize to false")
    return config.images


def _edge(size: dict[str, int] | int | None) -> int | None:
    if isinstance(size, dict):
        return size.get("shortest_edge") or size.get("height")
    return size
