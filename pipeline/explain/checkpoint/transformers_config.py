"""What a ``config.json`` of transformers says beyond the weights: epsilon, activation, and number of heads."""

import os
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from pipeline.explain.checkpoint.beside import read_beside
from pipeline.explain.checkpoint.model_config import FILE
from schemas.base import Record
from schemas.errors import UsageError
from schemas.model import Size

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Names of activations in timm by those in transformers."""


def is_of_transformers(folder: str) -> bool:
    """Return whether a folder has a ``config.json`` of transformers."""
    try:
        with open(os.path.join(folder, FILE), "rb") as content:
            data = content.read()
    except OSError:
        return False
    return _is_of_transformers(data)


def _is_of_transformers(config: bytes) -> bool:
    return b'"model_type"' in config and b'"architecture"' not in config


@dataclass(frozen=True)
class Facts:
    """What decides a result and is not in the weights; None where nothing tells.

    Attributes:
        activation: of the MLPs, in timm's terms.
        epsilon: of the norms.
        heads: of each block.
        image_size: height and width in pixels.
    """

    activation: str | None = None
    epsilon: float | None = None
    heads: int | None = None
    image_size: int | None = None


class TransformersConfig(Record):
    """The fields that decide a result. Those of an image–text model stand in ``vision_config``.

    Attributes:
        hidden_act: activation of the MLPs.
        layer_norm_eps: of the norms.
        num_attention_heads: of each block.
        image_size: height and width in pixels.
        use_swiglu_ffn: MLPs of DINOv2 are gated, and then ``hidden_act`` says nothing.
        vision_config: of the image tower.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    hidden_act: str | None = None
    layer_norm_eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    num_attention_heads: Size | None = None
    image_size: Size | tuple[Size, Size] | None = None
    use_swiglu_ffn: bool = False
    vision_config: "TransformersConfig | None" = None

    @classmethod
    def beside(cls, path: str) -> Facts:
        """Read the ``config.json`` in the folder of a weights file; no facts if there is none, or it is timm's.

        Raises:
            UsageError: it is broken, or has an unknown activation.
        """
        file, data = read_beside(path, FILE)
        return cls.read(data, file).facts(file) if data and _is_of_transformers(data) else Facts()

    def facts(self, source: str) -> Facts:
        """Return what it says of the image tower.

        Args:
            source: of the config, for error messages.

        Raises:
            UsageError: it has an unknown activation.
        """
        config = self.vision_config or self
        name = config.hidden_act
        if name is not None and name not in _ACTIVATIONS:
            raise UsageError(f"{source}: hidden_act is {name[:40]!r}; it can be {', '.join(_ACTIVATIONS)}")
        activation = "silu" if config.use_swiglu_ffn else None if name is None else _ACTIVATIONS[name]
        size = config.image_size[0] if isinstance(config.image_size, tuple) else config.image_size
        return Facts(activation, config.layer_norm_eps, config.num_attention_heads, size)
