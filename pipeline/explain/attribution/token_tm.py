"""Token transformation matters."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import upcast
from pipeline.explain.attribution.gradient_method import GradientMethod
from pipeline.explain.attribution.readout_attention import readout_queries, readout_weights
from pipeline.explain.capture import Capture
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace


@methods.register
@dataclass(frozen=True)
class TokenTM(GradientMethod):
    """Attention weighted by its gradient and by how tokens change in length and direction, accumulated through layers.

    With a, b, c the tokens before a block, after its attention and after the block, h₀ those before the first block:
    w(a, b)_i = ‖b_i‖ / (‖a_i‖ + 10⁻⁸) · softmax_i cos(a_i, b_i), the softmax over all tokens;

    C ← diag ‖h₀‖; for each block C ← (I + (mean_h A · diag w(a, b)) ⊙ mean_h ReLU(G)) C, then C ← (I + diag w(b, c)) C,

    G = ∂y_c/∂A; E = read-out row of C, patch columns. One row is read, so it is multiplied through the layers.

    The softmax over many cosines is nearly flat, so C stays near diag ‖h₀‖: for a mean read-out the map mostly shows
    lengths of tokens. Not defined for an attention pooler. Cost: the shared backward (≈1 forward), and the attention
    matrices one block at a time.

    The paper's code is not public, and which tokens count as before and after is open: this follows a public
    re-implementation, that of the author of LibraGrad.
    """

    base_name = "token_tm"
    paper = "Wu et al., Token Transformation Matters, CVPR 2024 (arXiv 2403.14552); by a public re-implementation"
    provenance = "public re-implementation by Mehri 2024"
    cost = "≈1.2, of which 1 shared"

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.ATTENTION_GRADIENTS | Capture.TOKENS

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if anatomy.readout == "pool":
            return "it is not defined for an attention pooler"
        return super().unsupported(anatomy)

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        gradients = trace.gradients(targets, self.backward_pass)
        row = readout_weights(trace)
        rows = readout_queries(trace)
        for block in reversed(range(trace.anatomy.depth)):
            stages = (trace.block_input(block), trace.block_middle(block), trace.block_output(block))
            before, middle, after = (upcast(tokens) for tokens in stages)
            row = row * (1 + _change(middle, after))
            attention = trace.attention(block)
            slope = attention.gradient(gradients.of_block(block), rows).relu_().mean(1)
            weighted = attention.probabilities(rows).mean(1) * _change(before, middle)[:, None] * slope
            row = row + torch.einsum("bi,bij->bj", row[:, rows], weighted)
            rows = slice(None)  # before the last block every row counts
        row = row * upcast(trace.block_input(0)).norm(dim=-1)
        return trace.to_grid(row[:, trace.anatomy.patch_tokens])


def _change(before: Tensor, after: Tensor) -> Tensor:
    """Compute w of tokens [B, n, D]: [B, n]."""
    lengths = after.norm(dim=-1) / (before.norm(dim=-1) + 1e-8)
    return lengths * F.cosine_similarity(before, after, dim=-1).softmax(-1)
