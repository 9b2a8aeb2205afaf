"""What an ``open_clip_config.json`` says beyond the weights: activation, number of heads, preparation of images."""

from typing import Annotated

from pydantic import ConfigDict, Field

from pipeline.explain.checkpoint.beside import read_beside
from pipeline.explain.checkpoint.model_config import ImageConfig
from pipeline.explain.checkpoint.transformers_config import Facts
from schemas.base import Finite, Record
from schemas.errors import UsageError
from schemas.model import Size

FILE = "open_clip_config.json"

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Vision(Record):
    """The image tower."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    width: Size | None = None
    head_width: Size = 64
    pool_type: str = "tok"
    timm_model_name: str | None = None


class _Model(Record):
    """The network."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    quick_gelu: bool = False
    vision_cfg: _Vision


class _Preprocess(Record):
    """The normalization of images."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mean: tuple[Finite, Finite, Finite] | None = None
    std: tuple[_Positive, _Positive, _Positive] | None = None


class OpenClipConfig(Record):
    """The fields that decide a result.

    Attributes:
        model_cfg: the network.
        preprocess_cfg: the normalization of images.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_cfg: _Model
    preprocess_cfg: _Preprocess = _Preprocess()

    @classmethod
    def beside(cls, path: str) -> "OpenClipConfig | None":
        """Read the file in the folder of a weights file; None if there is none.

        Raises:
            UsageError: it is broken, or its tower reads out something else than the class token.
        """
        file, content = read_beside(path, FILE)
        if content is None:
            return None
        config = cls.read(content, file)
        vision = config.model_cfg.vision_cfg
        if vision.timm_model_name is None and vision.pool_type != "tok":
            raise UsageError(
                f"{file}: pool_type is {vision.pool_type[:40]!r}; only towers that read the class token are known"
            )
        return config

    @property
    def facts(self) -> Facts:
        """What decides the output of the image tower. A trunk of timm is as its name says."""
        vision = self.model_cfg.vision_cfg
        if vision.timm_model_name is not None:
            return Facts()
        heads = vision.width // vision.head_width if vision.width else None
        return Facts("quick_gelu" if self.model_cfg.quick_gelu else "gelu", heads=heads)

    @property
    def images(self) -> ImageConfig | None:
        """Preparation of images, as far as it says."""
        mean, std = self.preprocess_cfg.mean, self.preprocess_cfg.std
        return ImageConfig(mean=mean, std=std) if mean and std else None
