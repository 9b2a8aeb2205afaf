"""Features of a network, their gradients, and maps of them by the formulas written out."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.explain.network import FeatureLayer


def features_and_logits(model: Any, images: Tensor, layer: FeatureLayer) -> tuple[Tensor, Tensor]:
    """Features [B, N, D] at a layer, and the logits, with the graph between them."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> Any:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()

    if layer.path:
        with model.get_submodule(layer.path).register_forward_hook(keep):
            logits = model(images)
    else:
        kept.append(model.forward_features(images).detach().requires_grad_())
        logits = model.forward_head(kept[0].clone())
    return kept[0], logits


def by_position(values: Tensor, layer: FeatureLayer) -> Tensor:
    """[B, h, w, D] of features as the network has them."""
    if layer.layout == "NCHW":
        return values.permute(0, 2, 3, 1)
    return values.reshape(len(values), *layer.grid, -1)


def written_out(name: str, features: Tensor, gradient: Tensor) -> Tensor:
    """The map [h, w] of one image from features and gradient [h, w, D]."""
    if name == "layercam":
        return (features * gradient.clamp(min=0)).sum(2).clamp(min=0)
    if name == "gradcam":
        return sum(features[:, :, k] * gradient[:, :, k].mean() for k in range(features.shape[2])).clamp(min=0)
    total = torch.zeros_like(features[:, :, 0])
    for k in range(features.shape[2]):
        g, f = gradient[:, :, k], features[:, :, k]
        alpha = g**2 / (2 * g**2 + f.sum() * g**3)
        total += (alpha.nan_to_num() * g.clamp(min=0)).sum() * f
    return total.clamp(min=0)
