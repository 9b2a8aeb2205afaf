"""Semantic maps of TS-CAM: a 3 × 3 convolution of the patch tokens to one map for each class."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import upcast
from pipeline.explain.network_trace import autocast
from pipeline.explain.readout import token_features
from schemas.run import Precision

WEIGHT, BIAS = "semantic.weight", "semantic.bias"
"""Names of the tensors of the convolution in an artifact: [C, D, 3, 3] and [C]."""


def class_token_fault(anatomy: Anatomy) -> str | None:
    """Return why TS-CAM is not defined for a model; None if it is."""
    if anatomy.readout in ("token", "token+mean"):
        return None
    reads = {"mean": "the mean of its patch tokens", "pool": "an attention pooler"}[anatomy.readout]
    return (
        "it multiplies by the attention of the class token to the patches, and this model classifies by "
        f"{reads}; take a model that classifies by its class token"
    )


def semantic_maps(model: Any, anatomy: Anatomy, tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the map of each class: [B, C, h, w]; their means over the patches are the logits.

    S_c = Σ_d k_{c,d} ∗ t_d + b_c, with t the patch tokens after the final norm, laid out on the patch grid and padded
    with zeros (Gao et al., ICCV 2021, section 3.3).

    Args:
        model: the network. Call it under its autocast.
        anatomy: its description.
        tokens: x, all tokens after the last block, [B, n, D].
        weight: k, [C, D, 3, 3].
        bias: b, [C].
    """
    patches = token_features(model, anatomy, tokens[:, anatomy.patch_tokens])[..., : anatomy.width]
    planes = upcast(patches).transpose(1, 2).unflatten(2, anatomy.grid)
    with torch.autocast(planes.device.type, enabled=False):
        return F.conv2d(planes, weight, bias, padding=1)


class SemanticReadout(nn.Module):
    """Model that returns its own logits and the semantic maps from one forward.

    The parameters of the model are under ``model.``, those of the convolution under ``semantic.``.

    Args:
        model: the network.
        anatomy: its description.
        frozen: take no gradient through the network.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, frozen: bool) -> None:
        super().__init__()
        self.model, self.anatomy, self.frozen = model, anatomy, frozen
        self.semantic = nn.Conv2d(anatomy.width, anatomy.classes, 3, padding=1)

    def forward(self, images: Tensor, precision: Precision = "full") -> tuple[Tensor, Tensor]:
        """Compute the network's own logits [B, C] of images [B, 3, H, W], and their maps [B, C, h, w].

        Args:
            images: preprocessed.
            precision: of the network; the convolution is computed in its own dtype.
        """
        outputs: list[Tensor] = []
        parts: Any = self.model
        with autocast(images, precision):
            with (
                torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen),
                parts.blocks[-1].register_forward_hook(lambda module, args, output: outputs.append(output)),
            ):
                logits = self.model(images)
            assert self.semantic.bias is not None
            tokens = outputs[0]
            return logits, semantic_maps(self.model, self.anatomy, tokens, self.semantic.weight, self.semantic.bias)
