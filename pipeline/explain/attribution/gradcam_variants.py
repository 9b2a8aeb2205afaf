"""Grad-CAM++ and LayerCAM."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.attribution.gradient_method import FeatureMethod
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.registry import methods


@methods.register
@dataclass(frozen=True)
class GradCAMPlusPlus(FeatureMethod):
    """Features weighted per channel by a weighted mean of their positive gradients, positive part.

    g = ∂y_c/∂F [N, D]; α = g² / (2 g² + g³ Σ_j F_j) for each channel, 0 where the denominator is 0;
    w = Σ_i α_i ReLU(g_i); E = ReLU(F w). These are the derivatives of exp(y_c), of which the paper makes the score,
    without the factor exp(y_c) that a map has in common. Cost: a backward from the layer, shared with ``gradcam``.

    pytorch-grad-cam adds 1e-6 to the denominator, which decides the map where gradients are below 1e-3; here nothing
    is added.
    """

    base_name = "gradcam_pp"
    paper = "Chattopadhay et al., Grad-CAM++, WACV 2018"
    cost = "≈0.1, shared"

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        features, gradient = self.features_and_gradient(trace, targets)
        # Divided by g², which would underflow in float32.
        denominator = 2 + gradient * features.sum(1, keepdim=True)
        alpha = torch.where((gradient != 0) & (denominator != 0), 1 / denominator, 0.0)
        weights = (alpha * gradient.relu()).sum(1)
        return trace.to_layer_grid(torch.einsum("bnd,bd->bn", features, weights).relu_(), self.layer)


@methods.register
@dataclass(frozen=True)
class LayerCAM(FeatureMethod):
    """Features, each weighted by its own positive gradient, positive part.

    E_i = ReLU(Σ_k F_ik ReLU(∂y_c/∂F_ik)). Weights of positions and not of channels are what makes it work in shallow
    layers, by ``layer=stage3`` or ``stage2``. Cost: a backward from the layer, shared with ``gradcam``.
    """

    base_name = "layercam"
    paper = "Jiang et al., LayerCAM, IEEE Transactions on Image Processing 30, 2021"
    cost = "≈0.1, shared"

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        features, gradient = self.features_and_gradient(trace, targets)
        return trace.to_layer_grid((features * gradient.relu()).sum(2).relu_(), self.layer)
