"""What a ``config.json`` of transformers says beyond the weights: epsilon, activation, and number of heads."""

import os
from typing import Annotated

from pydantic import ConfigDict, Field

from pipeline.explain.checkpoint.model_config import FILE
from schemas.base import Record
from schemas.errors import UsageError

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


class TransformersConfig(Record):
    """The fields that decide a result. Those of an image–text model stand in ``vision_config``.

    Attributes:
        hidden_act: activation of the MLPs.
        layer_norm_eps: of the norms.
        num_attention_heads: of each block.
        use_swiglu_ffn: MLPs of DINOv2 are gated, and then ``hidden_act`` says nothing.
        vision_config: of the image tower.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    hidden_act: str | None = None
    layer_norm_eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    num_attention_heads: int | None = None
    use_swiglu_ffn: bool = False
    vision_config: "TransformersConfig | None" = None

    @classmethod
    def beside(cls, path: str) -> "TransformersConfig":
        """Read the ``config.json`` in the folder of a weights file; empty if there is none, or it is timm's.

        Raises:
            UsageError: it is broken, or has an unknown activation.
        """
        file = os.path.join(os.path.dirname(path), FILE)
        try:
            with open(file, "rb") as content:
                data = content.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return cls()
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror or error}; make it readable, or move {path}") from None
        if b'"model_type"' not in data:
            return cls()
        config = cls.read(data, file)
        config = config.vision_config or config
        if config.hidden_act is not None and config.hidden_act not in _ACTIVATIONS:
            raise UsageError(f"{file}: hidden_act is {config.hidden_act[:40]!r}; it can be {', '.join(_ACTIVATIONS)}")
        return config

    @property
    def activation(self) -> str | None:
        """Activation of the MLPs, in timm's terms."""
        if self.use_swiglu_ffn:
            return "silu"
        return _ACTIVATIONS[self.hidden_act] if self.hidden_act is not None else None
