"""Transformer attribution."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import upcast
from pipeline.explain.attribution.readout_attention import readout_weights
from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Capture, LinearCall, Trace

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

    base_name = "transformer_attribution"
    paper = "Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021"
    cost = "≈4, of which 1 shared"

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.TO_ATTENTION | Capture.TOKENS | Capture.LINEARS

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if anatomy.readout != "token" or anatomy.read_tokens != 1:
            return "it is defined for a class token as the only read-out"
        if anatomy.attention != "Attention" or anatomy.positions != "absolute":
            return f"its rules do not cover {anatomy.attention} with {anatomy.positions} positions"
        if anatomy.mlp != "Mlp" or anatomy.classifier != "Linear":
            return f"its rules do not cover {anatomy.mlp} with a classifier that is {anatomy.classifier}"
        return None

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        gradients = trace.gradients(targets)
        relevance = _of_class_token(trace, targets)
        row = readout_weights(trace)
        for block in reversed(range(trace.anatomy.depth)):
            of_attention, relevance = _through_block(trace, block, relevance)
            # Queries without relevance have no rows in of_attention.
            rows = slice(0, of_attention.shape[2])
            gradient = trace.site(block).attention.gradient(gradients.of_block(block), rows)
            weighted = gradient.mul_(of_attention).relu_().mean(1)
            row = row + torch.einsum("bi,bij->bj", row[:, rows], weighted)
        return trace.grid(row[:, trace.anatomy.prefix_tokens :])


def _of_class_token(trace: Trace, targets: Tensor) -> Tensor:
    """Relevance of the class token behind the last block: [B, 1, D]. No other token has any."""
    features = trace.features(trace.last_output[:, :1])
    start = torch.zeros_like(trace.logits).scatter_(1, targets, 1)[:, None]
    head = LinearCall(trace.model.head, features, trace.logits[:, None])
    return _through_linear(head.of(slice(None)), upcast(start))


def _through_block(trace: Trace, block: int, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """From the relevance of a block's output to those of its attention and its input.

    Args:
        relevance: [B, r, D] of the first r tokens; that of the others is 0.

    Returns:
        [B, H, r, n] and [B, n, D].
    """
    rows = slice(0, relevance.shape[1])
    linears, attention = trace.linears[block], trace.site(block).attention
    stations = (trace.input(block), trace.middle(block), trace.output(block))
    before, middle, after = (upcast(tokens[:, rows]) for tokens in stations)
    skipped, branch = _through_sum(middle, after - middle, relevance)
    for name in ("fc2", "fc1"):
        branch = _through_linear(linears[name].of(rows), branch)
    skipped, branch = _through_sum(before, middle - before, skipped + branch)
    output = _through_linear(linears["proj"].of(rows), branch).unflatten(2, (trace.anatomy.heads, -1)).transpose(1, 2)
    query, key = upcast(attention.query[:, :, rows]), upcast(attention.key).transpose(-1, -2)
    of_matrix, of_value = _through_product(
        attention.probabilities(rows), upcast(attention.value), upcast(attention.output[:, :, rows]), output
    )
    if block == 0:
        return of_matrix, relevance  # nothing is asked of what lies below
    of_query, of_key = _through_product(query, key, query @ key, of_matrix)
    tokens = attention.key.shape[2]
    joined = torch.stack([_padded(of_query, tokens), of_key.transpose(-1, -2), of_value])  # [3, B, H, n, d]
    branch = _through_linear(linears["qkv"].of(slice(None)), joined.permute(1, 3, 0, 2, 4).flatten(2))
    return of_matrix, _padded(skipped, tokens) + branch


def _padded(tensor: Tensor, tokens: int) -> Tensor:
    """Zeros for the tokens that are left out: [..., r, D] to [..., n, D]."""
    return F.pad(tensor, (0, 0, 0, tokens - tensor.shape[-2]))


def _through_linear(linear: LinearCall, relevance: Tensor) -> Tensor:
    """The z⁺ rule: relevance [..., out] of the output to [..., in] of the input."""
    weight, size = upcast(linear.module.weight), linear.input.abs()
    magnitude = weight.abs()
    double = (size @ magnitude.T).add_(linear.output)  # twice the sum of the positive products
    if linear.module.bias is not None:
        double.sub_(upcast(linear.module.bias))
    share = _ratio(relevance, double, 2 * _STABILISER)
    return (share @ weight).mul_(linear.input).add_((share @ magnitude).mul_(size))


def _through_product(left: Tensor, right: Tensor, product: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Half to each operand of a matrix product."""
    share = _ratio(relevance, product).div_(2)
    return (share @ right.transpose(-1, -2)).mul_(left), (left.transpose(-1, -2) @ share).mul_(right)


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


def _ratio(numerator: Tensor, denominator: Tensor, stabiliser: float = _STABILISER) -> Tensor:
    shifted = denominator + stabiliser
    return torch.div(numerator, shifted, out=shifted).masked_fill_(denominator == 0, 0)
