"""The network's own classifier, read at patch tokens."""

from typing import Any

from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy

PATCH_READOUT_DESIGN = "pm_design_v1"
"""Provenance of patch-level read-outs: the paper's full text is not public, and what it leaves open is chosen here."""


def classifier_heads(model: Any) -> list[nn.Linear]:
    """The classifier; of a distilled network both."""
    return [getattr(model, name) for name in ("head", "head_dist") if hasattr(model, name)]


def classifier_logits(model: Any, features: Tensor) -> Tensor:
    """Logits [..., C] of features [..., D]. Of a distilled network the mean of its two classifiers."""
    logits = [head(features) for head in classifier_heads(model)]
    return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) / 2


def patch_logits(model: Any, anatomy: Anatomy, tokens: Tensor) -> Tensor:
    """Logits of every patch by the network's own classifier, which adds no parameter: [B, N, C].

    Class token or mean: head(fc_norm(norm(x_i))). Attention pooler: each patch alone as a sequence of length
    one, to which attention is 1; then the head.

    Args:
        tokens: x, patch tokens behind the last block, [B, N, D].
    """
    tokens = model.norm(tokens)
    if anatomy.readout == "pool":
        tokens = model.attn_pool(tokens.flatten(0, 1)[:, None]).unflatten(0, tokens.shape[:2])
    return classifier_logits(model, model.fc_norm(tokens))


class PatchReadout(nn.Module):
    """A network that says its classes for the image and for each patch, from one forward.

    Its parameters are the network's own, under ``model.``.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        super().__init__()
        self.model, self.anatomy = model, anatomy

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] → logits of the images [B, C], and of their patches [B, N, C]."""
        outputs: list[Tensor] = []
        parts: Any = self.model
        with parts.blocks[-1].register_forward_hook(lambda module, args, output: outputs.append(output)):
            logits = self.model(images)
        return logits, patch_logits(self.model, self.anatomy, outputs[0][:, self.anatomy.prefix_tokens :])
