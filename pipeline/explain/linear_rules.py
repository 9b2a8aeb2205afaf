"""γ rule of linear functions, alone or merged with a batch norm, and relevance of their biases."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_input, conv2d_input

from pipeline.explain.attention_capture import upcast


@dataclass
class _Call:
    """One call y = W x + b of a linear function. Its tensors are without a graph, which would hold itself.

    Attributes:
        gamma: returns γ of the backward pass that runs.
        func: ``F.linear``, ``F.conv1d`` or ``F.conv2d``.
        input: x.
        weight: W.
        bias: b.
        options: further arguments of the function.
        is_shared: whether more than a batch norm takes y, so that the two are no layer of their own.
        signed: sign(y) · s, handed from the output to the input in a backward pass.
    """

    gamma: Callable[[], float]
    func: Any
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    options: tuple[Any, ...]
    is_shared: bool = False
    signed: Tensor | None = None

    def magnitude(self, bias: Tensor | None) -> Tensor:
        """Compute |W| |x| + |b|."""
        bias = None if bias is None else upcast(bias).abs()
        result: Tensor = self.func(upcast(self.input).abs(), upcast(self.weight).abs(), bias, *self.options)
        return result

    def transposed(self, gradient: Tensor) -> Tensor:
        """Compute |W|ᵀ g."""
        weight = upcast(self.weight).abs()
        if self.func is F.linear:
            return gradient @ weight
        transposed: Any = conv1d_input if self.func is F.conv1d else conv2d_input
        result: Tensor = transposed(self.input.shape, weight, gradient, *self.options)
        return result


@dataclass
class _Result:
    """The numbers whose contributions a γ rule counts: y, or a y + c behind a batch norm.

    Attributes:
        output: y, without a graph.
        counts: returns whether it is these numbers that count.
        scale: a of each channel, [C, 1, 1], and None without a batch norm.
        shift: c, likewise.
    """

    output: Tensor
    counts: Callable[[], bool] = lambda: True
    scale: Tensor | None = None
    shift: Tensor | None = None

    def magnitude(self, call: _Call) -> Tensor:
        """Compute the sum of the absolute contributions."""
        if self.scale is None or self.shift is None:
            return call.magnitude(call.bias)
        shift = self.shift if call.bias is None else self.shift + self.scale * call.bias[:, None, None]
        return upcast(self.scale).abs() * call.magnitude(None) + upcast(shift).abs()


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
        func: ``F.linear``, ``F.conv1d`` or ``F.conv2d``.
        x: input, with a graph.
        weight: W.
        bias: b.
        options: further arguments of the function.
    """
    call = _Call(gamma, func, x.detach(), weight, bias, options)
    output = func(_Input.apply(call, x), weight, bias, *options)
    result: Tensor = _Output.apply(call, _Result(output.detach()), output)
    if func is F.conv2d:
        result._convolution = call, output  # type: ignore[attr-defined]
    return result


def merge_batch_norm(x: Tensor, norm: Callable[[Tensor], Tensor], scale: Tensor, shift: Tensor) -> Tensor:
    """Compute a x + c. Where it alone takes the output of a convolution, the γ rule takes the two for one layer.

    Args:
        x: [B, C, H, W].
        norm: computes the batch norm.
        scale: a, [C].
        shift: c, [C].
    """
    convolution = getattr(x, "_convolution", None)
    if convolution is None:
        return norm(x)
    call, output = convolution
    before = _Output.apply(call, _Result(output.detach(), lambda: call.is_shared), output)
    normed = norm(before)
    factors = scale[:, None, None], shift[:, None, None]
    result: Tensor = _Output.apply(call, _Result(normed.detach(), lambda: not call.is_shared, *factors), normed)
    return result


def note_use(x: Tensor) -> None:
    """Note that something else than a batch norm takes a tensor, which may be the output of a convolution."""
    if convolution := getattr(x, "_convolution", None):
        convolution[0].is_shared = True


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
    def forward(ctx: Any, call: _Call, result: _Result, y: Tensor) -> Tensor:
        ctx.call, ctx.result = call, result
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        call, result, half = ctx.call, ctx.result, ctx.call.gamma() / 2
        if not half or not result.counts():
            return None, None, gradient
        output = upcast(result.output)
        share = output.abs() / ((1 + half) * output.abs() + half * result.magnitude(call))
        share = upcast(gradient) * share.masked_fill_(output == 0, 0)
        signed = output.sign() * share
        if result.scale is not None:
            signed = signed * upcast(result.scale).abs()
        call.signed = signed if call.signed is None else call.signed + signed
        return None, None, share.to(gradient.dtype)


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
