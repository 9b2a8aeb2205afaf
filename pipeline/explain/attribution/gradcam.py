"""Grad-CAM on tokens, and on attention."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution.gradient_method import GradientMethod
from pipeline.explain.attribution.readout_attention import mean_over_queries, readout_attention, readout_queries
from pipeline.explain.capture import Capture
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace


@methods.register
@dataclass(frozen=True)
class GradCAM(GradientMethod):
    """Tokens at the last attention's input, weighted per channel by their mean gradient, positive part.

    F = ``norm1`` output of the last block, patch tokens [N, D]; w = mean over patches of ∂y_c/∂F [D];
    E = ReLU(F w). After the last attention the patch tokens of a class-token read-out have no gradient, so
    this is the last place where Grad-CAM is defined. Cost: a backward through one block.

    Public implementations differ in the layer: pytorch-grad-cam's example, followed here, uses the last
    ``norm1``; Vision DiffMask's comparison uses ``norm2`` of the block before, smoothed.
    """

    base_name = "gradcam"
    paper = "Selvaraju et al., Grad-CAM, ICCV 2017; on ViT tokens as in pytorch-grad-cam"
    cost = "≈0.1"

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.LAST_GRADIENTS

    def first_block(self, anatomy: Anatomy) -> int:
        return anatomy.depth - 1

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        gradient = trace.gradients(targets, self.backward_pass).last_tokens
        assert gradient is not None
        patches = trace.anatomy.patch_tokens
        tokens = trace.last_attention.tokens[:, patches].to(trace.images.dtype)
        weights = gradient[:, patches].to(tokens).mean(1)
        return trace.to_grid(torch.einsum("bnd,bd->bn", tokens, weights).relu_())


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
