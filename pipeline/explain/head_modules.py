"""Modules that a head file becomes on a network: classifiers, and a read-out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.head import Activation, HeadKind, HeadRecord


class LinearHead(nn.Linear):
    """Classifier W φ + b of a head file.

    Attributes:
        kind: of its head file.
        activation: turns logits into probabilities.
        classes: name of each logit.
        digest: of the head; empty before it is in a file.
    """

    kind: ClassVar[HeadKind] = "linear"

    def __init__(self, weight: Tensor, bias: Tensor | None, record: HeadRecord, digest: str = "") -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias is not None)
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)  # type: ignore[assignment]
        self.activation: Activation = record.activation
        self.classes, self.digest = record.classes, digest


class ZeroShotHead(nn.Module):
    """Classifier by similarity: a · N(P φ) · Tᵀ + b, with N the division by the Euclidean norm.

    Attributes:
        kind: of its head file.
        projection: P [E, in], or the identity.
        text: T, unit rows [C, E].
        scale: a.
        bias: b, a scalar or [C].
        empty: [k, E], embeddings of prompts without a content, or None.
        activation: turns logits into probabilities.
        classes: name of each logit.
        digest: of the head; empty before it is in a file.
    """

    kind: ClassVar[HeadKind] = "zero_shot"

    text: Tensor
    scale: Tensor
    bias: Tensor
    empty: Tensor | None

    def __init__(self, projection: nn.Module, tensors: dict[str, Tensor], record: HeadRecord, digest: str = "") -> None:
        super().__init__()
        self.projection = projection
        text = tensors["text"]
        self.register_buffer("text", text)
        self.register_buffer("scale", tensors.get("logit_scale", text.new_ones(())))
        self.register_buffer("bias", tensors.get("logit_bias", text.new_zeros(())))
        self.register_buffer("empty", tensors.get("empty"))
        self.activation: Activation = record.activation
        self.classes, self.digest = record.classes, digest

    @property
    def out_features(self) -> int:
        """Number of classes, C."""
        return len(self.text)

    @contextmanager
    def with_texts(self, texts: Tensor) -> Iterator[None]:
        """Compare with further texts while the context lasts: their class ids are C, C + 1, ….

        Args:
            texts: unit rows [n, E], of the dtype and on the device of ``text``.
        """
        own = self.text
        self.text = torch.cat([own, texts])
        try:
            yield
        finally:
            self.text = own

    def embed(self, features: Tensor) -> Tensor:
        """Compute unit embeddings [..., E] of features [..., in], at least float32."""
        weights = next(self.projection.parameters(), self.text)  # features of autocast may be read outside of it
        return F.normalize(self.projection(features.to(weights)).to(self.text), dim=-1)

    def cosine(self, features: Tensor, text: Tensor | None = None) -> Tensor:
        """Compute the similarities [..., C] of features [..., in] and texts.

        Args:
            features: φ.
            text: unit rows [C, E]; by default those of the classes.
        """
        text = self.text if text is None else text
        embedding = self.embed(features)
        # Half precision would round a similarity by 1/256, and the scale multiplies that by up to 100.
        with torch.autocast(embedding.device.type, enabled=False):
            return F.linear(embedding, text)

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits [..., C] of features [..., in]."""
        return self.scale * self.cosine(features) + self.bias


class TokenAndMean(nn.Module):
    """Read-out of the class token and the mean of the patch tokens, concatenated: [B, n, D] → [B, 2D]."""

    def __init__(self, prefix_tokens: int) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the features of tokens behind the final norm."""
        return torch.cat([tokens[:, 0], tokens[:, self.prefix_tokens :].mean(1)], -1)


class BehindFlatten(nn.Sequential):
    """Head in place of a convolution of 1 × 1, which reads means [B, D, 1, 1]."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__(nn.Flatten(1), head)


def attached_module(model: Any) -> LinearHead | ZeroShotHead | None:
    """Return the head file of a network, as a module; None where it has a classifier of its own."""
    head = getattr(model, "head", None)
    if not isinstance(head, LinearHead | ZeroShotHead) and hasattr(model, "get_classifier"):
        head = model.get_classifier()
    if isinstance(head, BehindFlatten):
        head = head[1]
    return head if isinstance(head, LinearHead | ZeroShotHead) else None


def head_activation(model: nn.Module) -> Activation:
    """Return what turns logits into probabilities: the activation of a head file, otherwise softmax."""
    head = attached_module(model)
    return "softmax" if head is None else head.activation
