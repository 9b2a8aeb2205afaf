"""Transformer attribution."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import upcast
from pipeline.explain.attribution.gradient_method import GradientMethod
from pipeline.explain.attribution.readout_attention import readout_weights
from pipeline.explain.capture import Capture, LinearCall
from pipeline.explain.head_modules import ZeroShotHead
from pipeline.explain.register_modules import RegisterShift
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace

_EPSILON = 1e-9


@methods.register
@dataclass(frozen=True)
class TransformerAttribution(GradientMethod):
    """Relevance of each layer's attention times its gradient, positive part, accumulated through all layers.

    C_l = mean_h ReLU(G_l ⊙ R_l), with G_l = ∂y_c/∂A_l and R_l the relevance [H, n, n] that reaches A_l from a
    relevance of 1 at the class; E = class row of (I + C_L) … (I + C_1), patch columns, rows not normalized. Relevance
    is propagated back by these rules, r/z meaning r / (z + 10⁻⁹), and 0 where z = 0:

    - linear: R_j = Σ_k (x_j w_kj)⁺ R_k / Σ_j' (x_j' w_kj')⁺, biases left out (z⁺ rule);
    - activation function, softmax, norm, layer scale, values that test-time registers move: unchanged;
    - similarity to texts (zero-shot head): z⁺ rule on texts and on projection, division by the norm unchanged;
    - matrix products A v and q kᵀ: each operand receives x ⊙ (∂z/∂x)ᵀ(R/z), halved;
    - skip connection a + b: a R/z and b R/z, then rescaled so that over the image they sum to
      |Σa|/(|Σa|+|Σb|) and |Σb|/(|Σa|+|Σb|) of ΣR.

    The positive products need no weights split by sign: x⁺w⁺ + x⁻w⁻ = ½(xw + |x||w|), and xw is the output
    that the forward has computed. Cost: the shared backward, and three products for each linear layer (≈3).

    Another ``target`` changes G_l only: relevance of the difference of two classes would sum to 0, by which the rule of
    skip connections divides.

    The paper normalizes the rows of I + C_l; the authors' code, followed here, does not. R_l divides by sums
    that may be near zero, so float32 is imprecise on a random network.
    """

    base_name = "transformer_attribution"
    paper = "Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021"
    cost = "≈4, of which 1 shared"

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.ATTENTION_GRADIENTS | Capture.TOKENS | Capture.LINEAR_LAYERS

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if anatomy.readout != "token" or anatomy.read_tokens != 1:
            return "it is defined for a class token as the only read-out"
        if anatomy.family == "Beit":
            return "its rules do not cover the attention of Beit, which adds the bias of queries and values by itself"
        if anatomy.attention != "Attention" or anatomy.positions != "absolute":
            return f"its rules do not cover {anatomy.attention} with {anatomy.positions} positions"
        if anatomy.mlp != "Mlp" or anatomy.classifier not in ("Linear", "LinearHead", "ZeroShotHead"):
            return f"its rules do not cover {anatomy.mlp} with a classifier that is {anatomy.classifier}"
        return super().unsupported(anatomy)

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        gradients = trace.gradients(targets, self.backward_pass)
        relevance = _class_token_relevance(trace, targets)
        row = readout_weights(trace)
        for block in reversed(range(trace.anatomy.depth)):
            attention_relevance, relevance = _through_block(trace, block, relevance)
            # Queries without relevance have no rows in attention_relevance.
            rows = slice(0, attention_relevance.shape[2])
            gradient = trace.attention(block).gradient(gradients.of_block(block), rows)
            weighted = gradient.mul_(attention_relevance).relu_().mean(1)
            row = row + torch.einsum("bi,bij->bj", row[:, rows], weighted)
        return trace.to_grid(row[:, trace.anatomy.patch_tokens])


def _class_token_relevance(trace: Trace, targets: Tensor) -> Tensor:
    """Compute the relevance of the class token after the last block: [B, 1, D]. No other token has any."""
    features, logits = trace.features(trace.last_output[:, :1]), trace.logits[:, None]
    start = torch.zeros_like(trace.logits).scatter_(1, targets, 1)[:, None]
    head: Any = trace.model.head
    if not isinstance(head, ZeroShotHead):
        return _through_linear(LinearCall(head.weight, head.bias, upcast(features), upcast(logits)), upcast(start))
    embedding = upcast(head.embed(features))
    relevance = _through_linear(LinearCall(head.scale * head.text, head.bias, embedding, upcast(logits)), upcast(start))
    projection = head.projection
    if not isinstance(projection, nn.Linear):
        return relevance
    projected = LinearCall(projection.weight, projection.bias, upcast(features), upcast(projection(features)))
    return _through_linear(projected, relevance)


def _through_block(trace: Trace, block: int, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Propagate the relevance of a block's output to its attention matrix and its input.

    Args:
        trace: a recorded forward.
        block: index of the block.
        relevance: [B, r, D] of the first r tokens; that of the others is 0.

    Returns:
        Relevance of the attention matrix [B, H, r, n] and of the input [B, n, D].
    """
    rows = slice(0, relevance.shape[1])
    linears, attention = trace.linear_calls[block], trace.attention(block)
    stages = (trace.block_input(block), trace.block_middle(block), trace.block_output(block))
    before, middle, after = (upcast(tokens[:, rows]) for tokens in stages)
    skipped, branch = _through_sum(middle, after - middle, relevance)
    branch = _through_linear(linears["fc2"].select(rows), branch)
    branch = _through_registers(trace.model.blocks[block].mlp, linears["fc1"].select(rows), branch)
    branch = _through_linear(linears["fc1"].select(rows), branch)
    skipped, branch = _through_sum(before, middle - before, skipped + branch)
    heads = attention.output.shape[1]
    output = _through_linear(linears["proj"].select(rows), branch).unflatten(2, (heads, -1)).transpose(1, 2)
    query, key = upcast(attention.query[:, :, rows]), upcast(attention.key).transpose(-1, -2)
    matrix_relevance, value_relevance = _through_product(
        attention.probabilities(rows), upcast(attention.value), upcast(attention.output[:, :, rows]), output
    )
    if block == 0:
        return matrix_relevance, relevance  # the relevance of the first block's input is not needed
    query_relevance, key_relevance = _through_product(query, key, query @ key, matrix_relevance)
    tokens = attention.key.shape[2]
    joined = torch.stack(
        [_pad_tokens(query_relevance, tokens), key_relevance.transpose(-1, -2), value_relevance]
    )  # [3, B, H, n, d]
    branch = _through_linear(linears["qkv"].select(slice(None)), joined.permute(1, 3, 0, 2, 4).flatten(2))
    return matrix_relevance, _pad_tokens(skipped, tokens) + branch


def _through_registers(mlp: Any, fc1: LinearCall, relevance: Tensor) -> Tensor:
    """Return the relevance [B, r, k] of what test-time registers moved to where it came from."""
    if not isinstance(mlp.drop1, RegisterShift):
        return relevance
    return mlp.drop1.relevance(mlp.act(fc1.output), relevance)


def _pad_tokens(tensor: Tensor, tokens: int) -> Tensor:
    """Append zeros for the other tokens: [..., r, D] → [..., n, D]."""
    return F.pad(tensor, (0, 0, 0, tokens - tensor.shape[-2]))


def _through_linear(linear: LinearCall, relevance: Tensor) -> Tensor:
    """Apply the z⁺ rule: relevance [..., out] of the output → [..., in] of the input."""
    weight, input_abs = upcast(linear.weight), linear.input.abs()
    weight_abs = weight.abs()
    double = (input_abs @ weight_abs.T).add_(linear.output)  # twice the sum of the positive products
    if linear.bias is not None:
        double.sub_(upcast(linear.bias))
    share = _ratio(relevance, double, 2 * _EPSILON)
    return (share @ weight).mul_(linear.input).add_((share @ weight_abs).mul_(input_abs))


def _through_product(left: Tensor, right: Tensor, product: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Give half of the relevance to each operand of a matrix product."""
    share = _ratio(relevance, product).div_(2)
    return (share @ right.transpose(-1, -2)).mul_(left), (left.transpose(-1, -2) @ share).mul_(right)


def _through_sum(left: Tensor, right: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Divide the relevance among the two summands of a skip connection."""
    share = _ratio(relevance, left + right)
    parts = [left * share, right * share]
    sums = [_total(part) for part in parts]
    whole = sums[0].abs() + sums[1].abs()
    left_relevance, right_relevance = (
        part * _ratio(_ratio(total.abs(), whole) * _total(relevance), total)
        for part, total in zip(parts, sums, strict=True)
    )
    return left_relevance, right_relevance


def _total(tensor: Tensor) -> Tensor:
    """Sum over tokens and channels of each image: [B, 1, 1]."""
    return tensor.sum((1, 2), keepdim=True)


def _ratio(numerator: Tensor, denominator: Tensor, epsilon: float = _EPSILON) -> Tensor:
    shifted = denominator + epsilon
    return torch.div(numerator, shifted, out=shifted).masked_fill_(denominator == 0, 0)
