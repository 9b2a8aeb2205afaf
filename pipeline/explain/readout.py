"""The model's own classifier, applied to patch tokens."""

from typing import Any

from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy

PATCH_READOUT_DESIGN = "pm_design_v1"
"""Provenance of patch-level read-outs: the paper's full text is not public; open details are chosen here."""


def classifier_heads(model: Any) -> list[nn.Linear]:
    """Return the classifier; of a distilled model both."""
    return [getattr(model, name) for name in ("head", "head_dist") if hasattr(model, name)]


def classifier_logits(model: Any, features: Tensor) -> Tensor:
    """Compute logits [..., C] of features [..., D]; of a distilled model the mean of its two classifiers."""
    rows = features.flatten(0, -2)  # a head with batch norm takes no other shape
    logits = [head(rows).unflatten(0, features.shape[:-1]) for head in classifier_heads(model)]
    return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) / 2


def patch_logits(model: Any, anatomy: Anatomy, tokens: Tensor) -> Tensor:
    """Compute the logits of every patch by the model's own classifier, which adds no parameter.

    Class token or mean: head(fc_norm(norm(x_i))). Attention pooler: each patch as a sequence of length 1,
    whose attention is 1; then the head.

    Args:
        model: the network.
        anatomy: its description.
        tokens: x, patch tokens after the last block, [B, N, D].

    Returns:
        [B, N, C].
    """
    tokens = model.norm(tokens)
    if anatomy.readout == "pool":
        tokens = model.attn_pool(tokens.flatten(0, 1)[:, None]).unflatten(0, tokens.shape[:2])
    return classifier_logits(model, model.fc_norm(tokens))


class PatchReadout(nn.Module):
    """Model that returns logits of the image and of each patch from one forward.

    Its parameters are the model's own, under ``model.``.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        super().__init__()
        self.model, self.anatomy = model, anatomy

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits of images [B, 3, H, W]: of the images [B, C] and of their patches [B, N, C]."""
        outputs: list[Tensor] = []
        parts: Any = self.model
        with parts.blocks[-1].register_forward_hook(lambda module, args, output: outputs.append(output)):
            logits = self.model(images)
        return logits, patch_logits(self.model, self.anatomy, outputs[0][:, self.anatomy.prefix_tokens :])
