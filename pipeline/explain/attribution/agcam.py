"""Attention-guided CAM."""

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import AttentionCall, ReplaceAttentionOutput, capture_attention
from pipeline.explain.attribution.gradient_method import GradientMethod
from pipeline.explain.attribution.readout_attention import mean_over_queries, pooler_weights, readout_queries
from pipeline.explain.capture import BackwardPass, Capture
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace


@methods.register
@dataclass(frozen=True)
class AGCAM(GradientMethod):
    """Positive gradient of each layer's attention times the sigmoid of its scores, summed over layers.

    E = Σ_l Σ_h read-out row of ReLU(G_l) ⊙ σ(S_l), patch columns, with S_l = q kᵀ/√d before the softmax and
    G_l = ∂y_c/∂A_l. Mean read-out: the product is averaged over the patch queries. An attention pooler is
    one more layer after the blocks; the blocks are then read as for the mean.

    The authors' code detaches the input of every self-attention, so that the gradient reaches A_l along skip
    connections and MLPs only; this implementation does the same. The tokens that the read-out reads are run
    through the blocks again, with their attention outputs as leaves: for a class token that is one token.

    Options:
        full_gradient: use the ordinary gradient, nothing detached. Maps of the two correlate at about 0.8.
    """

    base_name = "agcam"
    paper = "Leem & Seo, Attention Guided CAM, AAAI 2024"
    cost = "≈0.1; mean read-out and pooler ≈1.5"

    full_gradient: bool = False

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.ATTENTION_GRADIENTS if self.full_gradient else Capture.TOKENS | Capture.ATTENTION

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        if self.full_gradient:
            shared = trace.gradients(targets, self.backward_pass)
            gradients, pooler_gradient = [shared.of_block(block) for block in range(trace.anatomy.depth)], shared.pooler
        else:
            gradients, pooler_gradient = _detached_gradients(trace, targets, self.backward_pass)
        rows = readout_queries(trace)
        total = trace.images.new_zeros(len(trace.images), trace.last_attention.tokens.shape[1])
        for block, gradient in enumerate(gradients):
            attention = trace.attention(block)
            product = attention.gradient(gradient, rows).relu_().mul_(attention.scores(rows).sigmoid_())
            total += mean_over_queries(trace, product).sum(1)
        if trace.pooler is not None:
            assert pooler_gradient is not None
            gradient = trace.pooler.gradient(pooler_gradient)
            product = gradient.relu_() * trace.pooler.scores().sigmoid_()
            total += pooler_weights(trace, product[:, :, 0].sum(1))
        return trace.to_grid(total[:, trace.anatomy.patch_tokens])


def _detached_gradients(
    trace: Trace, targets: Tensor, backward_pass: BackwardPass
) -> tuple[list[Tensor], Tensor | None]:
    """Compute gradients with the input of every self-attention detached: [B, H, r, d] of each block, and of the pooler.

    The r tokens are those that the read-out reads; no others have such a gradient.
    """
    reads = trace.anatomy.read_tokens or trace.anatomy.tokens
    leaves = [
        trace.attention(block).output[:, :, :reads].detach().requires_grad_() for block in range(trace.anatomy.depth)
    ]
    tokens = trace.block_input(0)[:, :reads].detach()
    pooler_calls: list[AttentionCall] = []
    with ExitStack() as stack:
        if trace.pooler is not None:
            stack.enter_context(capture_attention(trace.model.attn_pool, pooler_calls.append))
        stack.enter_context(trace.graph(backward_pass))
        stack.enter_context(trace.autocast())
        for block in trace.model.blocks:  # a gate on the output reads the input too
            stack.enter_context(block.attn.register_forward_pre_hook(lambda _, args: (args[0].detach(), *args[1:])))
        for block, leaf in zip(trace.model.blocks, leaves, strict=True):
            with ReplaceAttentionOutput(leaf):
                tokens = block(tokens)
        logits = trace.read_out(tokens)
    with torch.enable_grad():
        score = trace.target_values(logits, targets, backward_pass.target).sum()
    gradients = trace.backward(score, leaves + [call.output for call in pooler_calls], backward_pass.rules)
    return list(gradients[: len(leaves)]), gradients[-1] if pooler_calls else None
