"""Beyond Intuition."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import AttentionCall, capture_attention, upcast
from pipeline.explain.attribution.gradient_method import GradientMethod
from pipeline.explain.attribution.readout_attention import readout_queries, readout_weights
from pipeline.explain.capture import Capture
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace


@methods.register
@dataclass(frozen=True)
class BeyondIntuition(GradientMethod):
    """Attention rolled out with weights of heads or tokens, times the mean gradient of the last attention.

    Perception: R = I, and from block ``start`` on, ``head``: R ← R + (Σ_h I_h A_h) R with I_h = mean |A_hᵀ G_h|,
    divided by its sum over heads, G = ∂y_c/∂A; ``token``: R ← R + (mean_h A · diag s) R with s_j = ‖W_O v_j‖ / ‖z_j‖,
    v_j the values of all heads, W_O the output projection without its bias, z the block's input. Feedback:
    W = mean_h ReLU(Γ), Γ = mean over α of ∂y_c(αx)/∂A_L, at equal steps α from 0 to 1, both ends included.
    E = read-out row of W ⊙ R, patch columns.

    A_hᵀ G_h = (A_hᵀ g_h) v_hᵀ with g the gradient at the attention output, so no product of three n × n matrices is
    computed; only rows that the read-out reads are rolled out. Each of the passes for Γ has a graph from the last
    attention on. Not defined for an attention pooler. Cost: a forward for each step, and for ``head`` the shared
    backward.

    Options:
        variant: weights of ``head`` or of ``token``.
        start: block from which attention is rolled out, counted from 1; 0 is ⌈L/3⌉ for ``head`` and ⌊L/2⌋ + 1 for
            ``token``, the authors' 4 and 7 of 12.
        steps: number of values of α.
    """

    base_name = "beyond_intuition"
    paper = "Chen et al., Beyond Intuition: Rethinking Token Attributions inside Transformers, TMLR 2023"
    cost = "≈1.1 · steps"
    default = False

    variant: Literal["head", "token"] = "head"
    start: int = 0
    steps: int = 20

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.ATTENTION_GRADIENTS if self.variant == "head" else Capture.ATTENTION | Capture.TOKENS

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if anatomy.readout == "pool":
            return "it is not defined for an attention pooler"
        if not 0 <= self.start <= anatomy.depth:
            return f"there is no block {self.start}; choose 1 to {anatomy.depth}, or 0"
        if self.steps < 2:
            return "it needs at least two steps, both ends of the path"
        if self.variant == "token" and not anatomy.has_plain_attention_output:
            return "variant=token is not defined where attention outputs are gated or normalized; take variant=head"
        return super().unsupported(anatomy)

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        rows, depth = readout_queries(trace), trace.anatomy.depth
        start = self.start or (-(-depth // 3) if self.variant == "head" else depth // 2 + 1)
        tokens = trace.last_attention.tokens.shape[1]
        rolled = torch.eye(tokens, dtype=upcast(trace.images).dtype, device=trace.images.device)[rows]
        rolled = rolled.expand(len(trace.images), -1, -1)
        weigh = self._weighted_heads if self.variant == "head" else self._weighted_tokens
        for block in reversed(range(start - 1, depth)):
            rolled = rolled + rolled @ weigh(trace, block, targets)
        product = rolled * self._feedback(trace, targets)
        weights = readout_weights(trace)[:, rows]
        return trace.to_grid(torch.einsum("bi,bij->bj", weights, product)[:, trace.anatomy.patch_tokens])

    def _weighted_heads(self, trace: Trace, block: int, targets: Tensor) -> Tensor:
        """Compute Σ_h I_h A_h of a block: [B, n, n]."""
        attention = trace.attention(block)
        probabilities = attention.probabilities()
        gradient = upcast(trace.gradients(targets, self.backward_pass).of_block(block))
        effect = (probabilities.transpose(-1, -2) @ gradient) @ upcast(attention.value).transpose(-1, -2)
        importance = effect.abs_().mean((2, 3))
        total = importance.sum(1, keepdim=True)
        importance = importance / total.masked_fill(total == 0, 1)  # without any gradient, nothing is rolled out
        return torch.einsum("bh,bhij->bij", importance, probabilities)

    def _weighted_tokens(self, trace: Trace, block: int, targets: Tensor) -> Tensor:
        """Compute mean_h A · diag s of a block: [B, n, n]."""
        attention = trace.attention(block)
        values = upcast(attention.value).transpose(1, 2).flatten(2)
        projected = values @ upcast(trace.model.blocks[block].attn.proj.weight).T
        scale = projected.norm(dim=-1) / upcast(trace.block_input(block)).norm(dim=-1)
        return attention.probabilities().mean(1) * scale[:, None]

    def _feedback(self, trace: Trace, targets: Tensor) -> Tensor:
        """Compute the rows of W that the read-out reads: [B, m, n]."""
        rows = readout_queries(trace)
        total: Tensor | None = None
        for alpha in torch.linspace(0, 1, self.steps, dtype=torch.float64).tolist():
            calls: list[AttentionCall] = []
            attention = trace.model.blocks[-1].attn
            with (
                trace.graph(self.backward_pass),
                trace.autocast(),
                capture_attention(attention, calls.append, detach_output=True),
            ):
                logits = trace.model(alpha * trace.images.detach())
            with torch.enable_grad():
                score = trace.target_values(logits, targets, self.target).sum()
            (gradient,) = trace.backward(score, [calls[0].output], self.backward_pass.rules)
            slope = calls[0].gradient(gradient, rows)
            total = slope if total is None else total.add_(slope)
        assert total is not None
        return (total / self.steps).relu_().mean(1)
