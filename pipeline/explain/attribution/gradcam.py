"""Grad-CAM on features, and on attention."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution.gradient_method import FeatureMethod, GradientMethod
from pipeline.explain.attribution.readout_attention import mean_over_queries, readout_attention, readout_queries
from pipeline.explain.capture import Capture
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace


@methods.register
@dataclass(frozen=True)
class GradCAM(FeatureMethod):
    """Features in front of the read-out, weighted per channel by their mean gradient, positive part.

    F = features of the positions [N, D]; w = mean over positions of ∂y_c/∂F [D]; E = ReLU(F w). In a plain vision
    transformer F is the ``norm1`` output of the last block: after the last attention the patch tokens of a class-token
    read-out have no gradient, so this is the last place where Grad-CAM is defined. In other networks it is the grid
    that the read-out sees, or that of another layer. Cost: a backward from there.

    Public implementations differ in the layer: pytorch-grad-cam's example, followed here, uses the last
    ``norm1``; Vision DiffMask's comparison uses ``norm2`` of the block before, smoothed.
    """

    base_name = "gradcam"
    paper = "Selvaraju et al., Grad-CAM, ICCV 2017; on ViT tokens as in pytorch-grad-cam"
    cost = "≈0.1"

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        features, gradient = self.features_and_gradient(trace, targets)
        return trace.to_layer_grid(torch.einsum("bnd,bd->bn", features, gradient.mean(1)).relu_(), self.layer)


@methods.register
@dataclass(frozen=True)
class AttentionGradCAM(GradientMethod):
    """Read-out row of the last attention, weighted per head by its mean gradient, positive part.

    a_h, g_h = read-out row of A_L and of ∂y_c/∂A_L, patch columns [N] (mean read-out: each the mean over
    the patch queries); w_h = mean over patches of g_h; E = ReLU(mean_h w_h a_h). With an attention pooler
    the rows are the pooler's. Cost: a backward through one block.
    """

    base_name = "attn_gradcam"
    paper = "the Grad-CAM baseline of Chefer et al. CVPR 2021"
    cost = "≈0.1"

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.LAST_GRADIENTS

    def first_block(self, anatomy: Anatomy) -> int:
        return anatomy.depth - 1

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        patches = trace.anatomy.patch_tokens
        gradients = trace.gradients(targets, self.backward_pass)
        if trace.pooler is not None:
            assert gradients.pooler is not None
            gradient = trace.pooler.gradient(gradients.pooler)
        else:
            gradient = trace.last_attention.gradient(gradients.of_block(-1), readout_queries(trace))
        weights = mean_over_queries(trace, gradient)[:, :, patches].mean(2)
        return trace.to_grid(
            torch.einsum("bh,bhn->bn", weights, readout_attention(trace)[:, :, patches]).relu_() / weights.shape[1]
        )
