"""Generic attention explainability."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution.gradient_method import GradientMethod
from pipeline.explain.attribution.readout_attention import pooler_weights, readout_queries, readout_weights
from pipeline.explain.capture import Capture
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace


@methods.register
@dataclass(frozen=True)
class GenericAttention(GradientMethod):
    """Attention weighted by its gradient, positive part, accumulated through all layers.

    R = I; for l = 1 … L: R ← R + C_l R with C_l = mean_h ReLU(G_l ⊙ A_l), G_l = ∂y_c/∂A_l [H, n, n] the
    gradient of the class logit; E = read-out row of R = (I + C_L) … (I + C_1), patch columns. Rows are not
    normalized. With an attention pooler its row, weighted likewise, is the first factor of the product.

    Only one row of R is read, so this row is multiplied through the layers. Cost: the shared backward
    (≈1 forward), and the attention matrices one block at a time.

    The authors' notebook for CLIP uses the last layers only; their ViT notebook, followed here, uses all.
    """

    base_name = "generic_attention"
    paper = "Chefer et al., Generic Attention-model Explainability, ICCV 2021"
    cost = "≈1.3, of which 1 shared"

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.ATTENTION_GRADIENTS

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        gradients = trace.gradients(targets, self.backward_pass)
        if trace.pooler is not None:
            assert gradients.pooler is not None
            pooler = trace.pooler
            weighted = pooler.gradient(gradients.pooler).mul_(pooler.probabilities()).relu_()
            row = pooler_weights(trace, weighted.mean(1)[:, 0])
            rows = slice(None)
        else:
            row = readout_weights(trace)
            rows = readout_queries(trace)
        for block in reversed(range(trace.anatomy.depth)):
            attention = trace.attention(block)
            weighted = attention.probabilities(rows)
            weighted = weighted.mul_(attention.gradient(gradients.of_block(block), rows)).relu_().mean(1)
            row = row + torch.einsum("bi,bij->bj", row[:, rows], weighted)
            rows = slice(None)  # before the last block every row counts
        return trace.to_grid(row[:, trace.anatomy.patch_tokens])
