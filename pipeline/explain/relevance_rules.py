"""Sets of relevance rules, and the backward passes that follow one of them through a forward of unchanged values.

Relevance is gradient times value: the rules state what the gradient is multiplied with. Every function of
``pipeline.explain.function_rules`` computes its ordinary value and notes what its rule needs. A backward pass inside
``RuleState.by(rules)`` follows the rules, every other one is the ordinary gradient.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.explain.attention_capture import upcast


@dataclass(frozen=True)
class Rules:
    """A set of rules.

    Attributes:
        attention: share of the relevance of A·v that attention weights A get, the values v get the rest. With 0 the
            weights are constants. Queries and keys get half of what the weights get, each.
        gamma: γ of linear layers: 0 is the ordinary gradient.
        convolution_gamma: γ of convolutions. In a plain vision transformer that is the patch embedding.
        gamma_in_attention: whether layers in attention have γ too.
    """

    attention: float = 0.0
    gamma: float = 0.0
    convolution_gamma: float = 0.0
    gamma_in_attention: bool = True


LIBRA = Rules()
"""Constant attention: CP-LRP (Ali et al., ICML 2022) and LibraGrad (Mehri et al., CVPR 2025)."""
ATTN_LRP = Rules(attention=0.5)
"""AttnLRP (Achtibat et al., ICML 2024): A·v, then q·k, each give half of their relevance to each operand."""


class RuleState:
    """The rules of the backward passes that run, and what a forward notes for them.

    Args:
        keeps_gamma: keep what γ rules need, inputs and outputs of linear layers and convolutions.

    Attributes:
        rules: of the backward passes now; None is the ordinary gradient.
        bias_sums: zeros [B, n] whose gradient is Σ over biases of bias · gradient of the output, for each token; or
            None. Counted are linear layers and layer norms in blocks, the final norm, keys and values of a pooler.
        in_attention: whether a module of attention runs.
        in_tokens: whether a module runs whose biases are counted.
    """

    def __init__(self, keeps_gamma: bool = False) -> None:
        self.keeps_gamma = keeps_gamma
        self.rules: Rules | None = None
        self.bias_sums: Tensor | None = None
        self.in_attention = False
        self.in_tokens = False

    @contextmanager
    def by(self, rules: Rules | None) -> Iterator[None]:
        """Make the backward passes in this context follow rules."""
        self.rules = rules
        try:
            yield
        finally:
            self.rules = None

    def scaled(self, x: Tensor, factor: Callable[[Rules], float]) -> Tensor:
        """Return x; in the backward pass its gradient is multiplied by a factor of the rules."""
        result: Tensor = _Scaled.apply(self, factor, x)
        return result

    def constant(self, x: Tensor) -> Tensor:
        """Return x; by the rules it is a constant."""
        return self.scaled(x, _nothing)


def _nothing(rules: Rules) -> float:
    return 0.0


class _Scaled(torch.autograd.Function):
    """The identity; by the rules its gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, state: RuleState, factor: Callable[[Rules], float], x: Tensor) -> Tensor:
        ctx.state, ctx.factor = state, factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        factor = 1.0 if ctx.state.rules is None else ctx.factor(ctx.state.rules)
        return None, None, gradients[0] if factor == 1 else factor * gradients[0] if factor else None


_aten: Any = torch.ops.aten
ACTIVATIONS: dict[Any, tuple[float, Callable[..., Tensor]]] = {
    F.gelu: (0.5, lambda gradient, x, output, **options: _aten.gelu_backward(gradient, x, **options)),
    F.silu: (0.5, lambda gradient, x, output: _aten.silu_backward(gradient, x)),
    F.mish: (0.6, lambda gradient, x, output: _aten.mish_backward(gradient, x)),
    F.hardswish: (0.5, lambda gradient, x, output: _aten.hardswish_backward(gradient, x)),
    F.hardtanh: (
        0.0,
        lambda gradient, x, output, min_val=-1.0, max_val=1.0: _aten.hardtanh_backward(gradient, x, min_val, max_val),
    ),
    F.relu6: (0.0, lambda gradient, x, output: _aten.hardtanh_backward(gradient, x, 0.0, 6.0)),
    **dict.fromkeys(
        (torch.tanh, Tensor.tanh), (1.0, lambda gradient, x, output: _aten.tanh_backward(gradient, output))
    ),
}
"""Gate f(x) / x at 0 and ordinary backward of activation functions f with f(0) = 0."""


class Activation(torch.autograd.Function):
    """An activation function f; by the rules x · g with the gate g = f(x) / x a constant."""

    @staticmethod
    def forward(ctx: Any, state: RuleState, func: Any, x: Tensor, options: Any, named: Any) -> Tensor:
        output: Tensor = func(x, *options, **named)
        ctx.state, ctx.func, ctx.options, ctx.named = state, func, options, named
        ctx.save_for_backward(x, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, output = ctx.saved_tensors
        gate_at_zero, ordinary = ACTIVATIONS[ctx.func]
        if ctx.state.rules is None:
            return None, None, ordinary(gradient, x, output, *ctx.options, **ctx.named), None, None
        return None, None, gradient * (output / x).masked_fill_(x == 0, gate_at_zero), None, None


class LayerNorm(torch.autograd.Function):
    """Layer norm; by the rules the standard deviation is a constant, the mean is not."""

    @staticmethod
    def forward(
        ctx: Any,
        state: RuleState,
        tokens: Tensor,
        shape: list[int],
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        output, mean, rstd = _aten.native_layer_norm(tokens, shape, weight, bias, eps)
        ctx.state, ctx.shape = state, shape
        ctx.save_for_backward(tokens, mean, rstd, weight, bias)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        tokens, mean, rstd, weight, bias = ctx.saved_tensors
        if ctx.state.rules is None:
            arguments = gradient.contiguous(), tokens, ctx.shape, mean, rstd, weight, bias, [True, False, False]
            return None, _aten.native_layer_norm_backward(*arguments)[0], None, None, None, None
        scaled = gradient if weight is None else gradient * weight
        scaled = scaled - scaled.mean(tuple(range(-len(ctx.shape), 0)), keepdim=True)
        return None, scaled * rstd, None, None, None, None


class WithRule(torch.autograd.Function):
    """A function of one tensor with two derivatives: its own, for which it is run again, and that of a rule."""

    @staticmethod
    def forward(
        ctx: Any,
        state: RuleState,
        func: Callable[[Tensor], Tensor],
        rule: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
    ) -> Tensor:
        ctx.state, ctx.func, ctx.rule = state, func, rule
        ctx.save_for_backward(x)
        return func(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        (x,) = ctx.saved_tensors
        if ctx.state.rules is not None:
            return None, None, None, ctx.rule(x, gradient)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            output = ctx.func(leaf)
        return None, None, None, *torch.autograd.grad(output, leaf, gradient)


def rms_norm_gradient(
    x: Tensor, gradient: Tensor, shape: list[int], weight: Tensor | None, eps: float | None
) -> Tensor:
    """Compute the gradient to the input of an RMS norm whose root of the mean square is a constant."""
    exact = upcast(x)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    mean_square = exact.square().mean(tuple(range(-len(shape), 0)), keepdim=True)
    scaled = gradient if weight is None else gradient * weight
    return (scaled * (mean_square + eps).rsqrt()).to(gradient.dtype)


def group_norm_gradient(x: Tensor, gradient: Tensor, groups: int, weight: Tensor | None, eps: float) -> Tensor:
    """Compute the gradient to the input of a group norm whose standard deviation is a constant, and its mean is not.

    Args:
        x: [B, C, …].
        gradient: of the output.
        groups: number of groups of channels.
        weight: [C].
        eps: added to the variance.
    """
    variance = upcast(x).reshape(len(x), groups, -1).var(2, correction=0, keepdim=True)
    scaled = gradient if weight is None else gradient * weight.reshape(1, -1, *[1] * (x.ndim - 2))
    grouped = upcast(scaled).reshape(len(x), groups, -1)
    passed = (grouped - grouped.mean(2, keepdim=True)) * (variance + eps).rsqrt()
    return passed.reshape(x.shape).to(gradient.dtype)
