"""Transformer attribution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Linear, Need, Trace

_STABILISER = 1e-9


@methods.register
@dataclass(frozen=True)
class TransformerAttribution(Method):
    """Relevance of each layer's attention times its gradient, positive part, accumulated through all layers.

    C_l = mean_h ReLU(G_l ⊙ R_l), with G_l = ∂y_c/∂A_l and R_l the relevance [H, n, n] that reaches A_l from a
    one at the class; E = class row of (I + C_L) … (I + C_1), patch columns, rows not normalised. Relevance
    goes back by these rules, r/z meaning r / (z + 10⁻⁹), and 0 where z = 0:

    - linear: R_j = Σ_k (x_j w_kj)⁺ R_k / Σ_j' (x_j' w_kj')⁺, biases left out (z⁺ rule);
    - GELU, softmax, layer norm, layer scale: unchanged;
    - matrix products A v and q kᵀ: each operand gets x ⊙ (∂z/∂x)ᵀ(R/z), halved;
    - skip connection a + b: a R/z and b R/z, then rescaled so that over the image they sum to
      |Σa|/(|Σa|+|Σb|) and |Σb|/(|Σa|+|Σb|) of ΣR.

    The positive products need no weights split by sign: x⁺w⁺ + x⁻w⁻ = ½(xw + |x||w|), and xw is the output
    that the forward has computed. Cost: the shared backward, and three products for each linear layer (≈3).

    The paper normalises the rows of I + C_l; the authors' code does not, and is followed. R_l has divisions
    by sums that may be near zero, so float32 is rough on a random network.
    """

    base = "transformer_attribution"
    paper = "Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021"
    cost = "≈4, of which 1 shared"

    def needs(self, anatomy: Anatomy) -> Need:
        return Need.TO_ATTENTION | Need.TOKENS | Need.LINEARS

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if anatomy.readout != "token" or anatomy.read_tokens != 1:
            return "it is defined for a class token as the only read-out"
        if anatomy.attention != "Attention" or anatomy.positions != "absolute":
            return f"its rules do not cover {anatomy.attention} with {anatomy.positions} positions"
        if anatomy.mlp != "Mlp":
            return f"its rules do not cover {anatomy.mlp}"
        return None

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        gradients = trace.gradients(targets)
        relevance = _of_last_output(trace, targets)
        row = trace.images.new_zeros(len(targets), trace.last.tokens.shape[1])
        row[:, 0] = 1
        for block in reversed(range(trace.anatomy.depth)):
            of_attention, relevance = _through_block(trace, block, relevance)
            gradient = trace.site(block).attention.gradient(gradients.of_block(block))
            row = row + torch.einsum("bi,bij->bj", row, gradient.mul_(of_attention).relu_().mean(1))
        return trace.grid(row[:, trace.anatomy.prefix_tokens :])


def _of_last_output(trace: Trace, targets: Tensor) -> Tensor:
    """Relevance of the last block's output [B, n, D], all of it in the class token."""
    features = trace.features(trace.last_output[:, 0])
    start = torch.zeros_like(trace.logits).scatter_(1, targets, 1)
    relevance = torch.zeros_like(trace.last_output)
    relevance[:, 0] = _through_linear(Linear(trace.model.head, features, trace.logits), start)
    return relevance


def _through_block(trace: Trace, block: int, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """From the relevance of a block's output to those of its attention [B, H, n, n] and its input [B, n, D]."""
    linears, attention = trace.linears[block], trace.site(block).attention
    before, middle, after = trace.input(block), trace.middle(block), trace.output(block)
    skipped, branch = _through_sum(middle, after - middle, relevance)
    branch = _through_linear(linears["fc1"], _through_linear(linears["fc2"], branch))
    skipped, branch = _through_sum(before, middle - before, skipped + branch)
    output = _through_linear(linears["proj"], branch).unflatten(2, (trace.anatomy.heads, -1)).transpose(1, 2)
    matrix, value = attention.probabilities(), attention.value
    of_matrix, of_value = _through_product(matrix, value, attention.output, output)
    if block == 0:
        return of_matrix, relevance  # nothing is asked of what lies below
    scores = attention.query @ attention.key.transpose(-1, -2)
    of_query, of_key = _through_product(attention.query, attention.key.transpose(-1, -2), scores, of_matrix)
    joined = torch.stack([of_query, of_key.transpose(-1, -2), of_value])  # [3, B, H, n, d]
    branch = _through_linear(linears["qkv"], joined.permute(1, 3, 0, 2, 4).flatten(2))
    return of_matrix, skipped + branch


def _through_linear(linear: Linear, relevance: Tensor) -> Tensor:
    """The z⁺ rule: relevance [..., out] of the output to [..., in] of the input."""
    weight, size = linear.module.weight, linear.input.abs()
    magnitude = weight.abs()
    products = linear.output if linear.module.bias is None else linear.output - linear.module.bias
    share = _ratio(relevance, (products + size @ magnitude.T) / 2)
    return (linear.input * (share @ weight) + size * (share @ magnitude)) / 2


def _through_product(left: Tensor, right: Tensor, product: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Half to each operand of a matrix product."""
    share = _ratio(relevance, product)
    return left * (share @ right.transpose(-1, -2)) / 2, right * (left.transpose(-1, -2) @ share) / 2


def _through_sum(left: Tensor, right: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """To the two summands of a skip connection."""
    share = _ratio(relevance, left + right)
    parts = [left * share, right * share]
    sums = [_total(part) for part in parts]
    whole = sums[0].abs() + sums[1].abs()
    of_left, of_right = (
        part * _ratio(_ratio(total.abs(), whole) * _total(relevance), total)
        for part, total in zip(parts, sums, strict=True)
    )
    return of_left, of_right


def _total(tensor: Tensor) -> Tensor:
    """Sum over each image: [B, 1, 1]."""
    return tensor.sum((1, 2), keepdim=True)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator == 0, 0.0, numerator / (denominator + _STABILISER))
