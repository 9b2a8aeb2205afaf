"""γ rule of linear functions, and relevance of their biases."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

from pipeline.explain.attention_capture import upcast


@dataclass
class _Call:
    """One call y = W x + b of a linear function. Its tensors are without a graph, which would hold itself.

    Attributes:
        gamma: returns γ of the backward pass that runs.
        func: ``F.linear`` or ``F.conv2d``.
        input: x.
        weight: W.
        bias: b.
        options: further arguments of the function.
        output: y.
        signed: sign(y) · s, handed from the output to the input in a backward pass.
    """

    gamma: Callable[[], float]
    func: Any
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    options: tuple[Any, ...]
    output: Tensor | None = None
    signed: Tensor | None = None

    def magnitude(self) -> Tensor:
        """Compute |W| |x| + |b|."""
        bias = None if self.bias is None else upcast(self.bias).abs()
        result: Tensor = self.func(upcast(self.input).abs(), upcast(self.weight).abs(), bias, *self.options)
        return result

    def transposed(self, gradient: Tensor) -> Tensor:
        """Compute |W|ᵀ g."""
        weight = upcast(self.weight).abs()
        if self.func is F.linear:
            return gradient @ weight
        return conv2d_input(self.input.shape, weight, gradient, *self.options)


def linear_call(
    gamma: Callable[[], float],
    func: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    options: tuple[Any, ...],
) -> Tensor:
    """Compute y = W x + b, whose backward passes follow the generalised γ rule.

    With contributions c_ji = W_ji x_i, those of the sign of y_j, and b_j likewise, count 1 + γ: they sum to z_j, and
    ∂/∂x_i = Σ_j g_j (y_j / z_j) W_ji (1 + γ [c_ji y_j > 0]). Positive and negative parts are half the sum and half the
    difference of W x and |W| |x|, so

        s_j = g_j |y_j| / ((1 + γ/2) |y_j| + γ/2 (|W| |x| + |b|)_j), 0 where y_j = 0,
        ∂/∂x = (1 + γ/2) Wᵀ s + γ/2 sign(x) ⊙ |W|ᵀ (sign(y) ⊙ s).

    The denominator is at least |y_j|: no stabiliser is needed. Cost: a product in addition to each of the forward and
    the backward. Source: Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019; both signs as in zennit.

    Args:
        gamma: returns γ of the backward pass that runs; 0 is the ordinary gradient.
        func: ``F.linear`` or ``F.conv2d``.
        x: input, with a graph.
        weight: W.
        bias: b.
        options: further arguments of the function.
    """
    call = _Call(gamma, func, x.detach(), weight, bias, options)
    output = func(_Input.apply(call, x), weight, bias, *options)
    call.output = output.detach()
    result: Tensor = _Output.apply(call, output)
    return result


class _Input(torch.autograd.Function):
    """The identity, at the input of a linear function."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor) -> Tensor:
        ctx.call = call
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        call, half = ctx.call, ctx.call.gamma() / 2
        if not half:
            return None, gradient
        signs = upcast(call.input).sign()
        signed, call.signed = call.transposed(call.signed), None
        return None, ((1 + half) * upcast(gradient) + half * signs * signed).to(gradient.dtype)


class _Output(torch.autograd.Function):
    """The identity, at the output of a linear function."""

    @staticmethod
    def forward(ctx: Any, call: _Call, y: Tensor) -> Tensor:
        ctx.call = call
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        call, half = ctx.call, ctx.call.gamma() / 2
        if not half:
            return None, gradient
        output = upcast(call.output)
        share = output.abs() / ((1 + half) * output.abs() + half * call.magnitude())
        share = upcast(gradient) * share.masked_fill_(output == 0, 0)
        call.signed = output.sign() * share
        return None, share.to(gradient.dtype)


def bias_tap(output: Tensor, bias: Tensor, sums: Tensor) -> Tensor:
    """Return an output unchanged; in the backward pass, add Σ_k bias_k g[..., k] of its gradient g to that of ``sums``.

    Args:
        output: [B, m, D].
        bias: [D].
        sums: [B, n] with n ≥ m, of the same tokens.
    """
    result: Tensor = _BiasTap.apply(output, bias, sums[:, : output.shape[1]])
    return result


class _BiasTap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, bias: Tensor, sums: Tensor) -> Tensor:
        ctx.save_for_backward(bias)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), (bias,) = gradients, ctx.saved_tensors
        return gradient, None, (upcast(gradient) * bias).sum(-1)
