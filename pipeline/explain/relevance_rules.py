"""Backward passes by other derivatives than the ordinary ones, through one forward of unchanged values.

While ``RuleMode`` is entered, each function of ``_RULES`` computes its ordinary value and notes what its rule needs. A
backward pass inside ``by(rules)`` follows the rules, every other one is the ordinary gradient. Relevance is gradient
times value: the rules state what the gradient is multiplied with.

| function | by the rules |
|---|---|
| layer norm, RMS norm, division by a length | the deviation, or the length, is a constant; the mean is not |
| GELU, SiLU, tanh, QuickGELU | f(x) = x · g with the gate g = f(x) / x a constant |
| attention | gradients of queries, keys and values times the factors of ``Rules`` |
| product of a gated MLP | gradient times ½ |
| linear layer, convolution | γ rule of ``Rules`` |
| everything else | ordinary |
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.mlp import GluMlp, SwiGLU
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.explain.attention_capture import upcast
from pipeline.explain.linear_rules import bias_tap, linear_call


@dataclass(frozen=True)
class Rules:
    """A set of rules.

    Attributes:
        query_key: factor of the gradients of queries and keys. With 0 attention probabilities are constants.
        value: factor of the gradient of values.
        gamma: γ of linear layers: 0 is the ordinary gradient.
        embedding_gamma: γ of the convolution of the patch embedding.
        gamma_in_attention: whether projections in attention have γ too.
    """

    query_key: float = 0.0
    value: float = 1.0
    gamma: float = 0.0
    embedding_gamma: float = 0.0
    gamma_in_attention: bool = True


LIBRA = Rules()
"""Constant attention: CP-LRP (Ali et al., ICML 2022) and LibraGrad (Mehri et al., CVPR 2025)."""
ATTN_LRP = Rules(query_key=0.25, value=0.5)
"""AttnLRP (Achtibat et al., ICML 2024): A·v, then q·k, each give half of their relevance to each operand."""


class RuleMode(TorchFunctionMode):
    """Context that replaces functions by ones with two derivatives; values stay the same.

    Args:
        keeps_gamma: keep what γ rules need, inputs and outputs of linear layers.

    Attributes:
        rules: of the backward passes now; None is the ordinary gradient.
        bias_sums: zeros [B, n] whose gradient is Σ over biases of bias · gradient of the output, for each token; or
            None. Counted are linear layers and layer norms in blocks, the final norm, keys and values of a pooler.
    """

    def __init__(self, keeps_gamma: bool = False) -> None:
        super().__init__()
        self.keeps_gamma = keeps_gamma
        self.rules: Rules | None = None
        self.bias_sums: Tensor | None = None
        self._in_attention = False
        self._in_tokens = False

    @contextmanager
    def by(self, rules: Rules | None) -> Iterator[None]:
        """Make the backward passes in this context follow rules."""
        self.rules = rules
        try:
            yield
        finally:
            self.rules = None

    @contextmanager
    def on(self, model: Any) -> Iterator[None]:
        """Enter the mode for runs of a model or of parts of it."""
        with ExitStack() as stack:
            for block in model.blocks:
                stack.enter_context(self._during(block, "_in_tokens", True))
                stack.enter_context(self._during(block.attn, "_in_attention", True))
                if isinstance(block.mlp, GluMlp | SwiGLU):  # the product is the input of norm
                    stack.enter_context(
                        block.mlp.norm.register_forward_pre_hook(lambda _, args: (self._scaled(args[0], _half),))
                    )
            stack.enter_context(self._during(model.norm, "_in_tokens", True))
            pooler = getattr(model, "attn_pool", None)
            if pooler is not None:
                stack.enter_context(self._during(pooler, "_in_attention", True))
                stack.enter_context(self._during(pooler.kv, "_in_tokens", True))
                if pooler.mlp is not None:
                    stack.enter_context(self._during(pooler.mlp, "_in_attention", False))
            stack.enter_context(self)
            yield

    @contextmanager
    def _during(self, module: nn.Module, name: str, value: bool) -> Iterator[None]:
        """Set an attribute while a module runs."""

        def before(*_: Any) -> None:
            setattr(self, name, value)

        def after(*_: Any) -> None:
            setattr(self, name, not value)

        with module.register_forward_pre_hook(before), module.register_forward_hook(after):
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(func)
        return func(*args, **(kwargs or {})) if rule is None else rule(self, func, *args, **(kwargs or {}))

    def _scaled(self, x: Tensor, factor: Callable[[Rules], float]) -> Tensor:
        """Return x; in the backward pass its gradient is multiplied by a factor of the rules."""
        result: Tensor = _Scaled.apply(self, factor, x)
        return result

    def constant(self, func: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Rule of a gate or a divisor: no gradient passes."""
        return self._scaled(func(*args, **kwargs), _nothing)

    def normalize(
        self, func: Any, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
    ) -> Tensor:
        """Rule of ``F.normalize``.

        With the ordinary gradient the relevance of a similarity would be 0: it does not depend on the length of x.
        """
        return x / self._scaled(x.norm(p, dim, keepdim=True).clamp_min(eps), _nothing)

    def layer_norm(
        self,
        func: Any,
        x: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        """Rule of ``F.layer_norm``, which runs in float32 under autocast."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.float()
        return self._with_bias(_LayerNorm.apply(self, x, list(normalized_shape), weight, bias, eps), bias)

    def rms_norm(
        self, func: Any, x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        """Rule of ``F.rms_norm``."""
        result: Tensor = _RMSNorm.apply(self, x, list(normalized_shape), weight, eps)
        return result

    def activation(self, func: Any, x: Tensor, inplace: bool = False, **options: Any) -> Tensor:
        """Rule of an activation function."""
        result: Tensor = _Activation.apply(self, func, x, options)
        return result

    def attention(self, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Rule of attention."""
        query, key = (self._scaled(x, lambda rules: rules.query_key) for x in (query, key))
        result: Tensor = func(query, key, self._scaled(value, lambda rules: rules.value), *args, **kwargs)
        return result

    def linear(self, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, *options: Any) -> Tensor:
        """Rule of a linear layer, or of a convolution."""
        if not (self.keeps_gamma and x.requires_grad):
            return self._with_bias(func(x, weight, bias, *options), bias)
        in_attention, is_layer = self._in_attention, func is F.linear

        def gamma() -> float:
            if self.rules is None or (in_attention and not self.rules.gamma_in_attention):
                return 0.0
            return self.rules.gamma if is_layer else self.rules.embedding_gamma

        return self._with_bias(linear_call(gamma, func, x, weight, bias, options), bias)

    def _with_bias(self, output: Tensor, bias: Tensor | None) -> Tensor:
        """Let the gradient of an output reach ``bias_sums`` too. Norms of queries and keys have four dimensions."""
        counted = self._in_tokens and output.requires_grad and output.ndim == 3
        if self.bias_sums is None or bias is None or not counted:
            return output
        return bias_tap(output, bias, self.bias_sums)


def _nothing(rules: Rules) -> float:
    return 0.0


def _half(rules: Rules) -> float:
    return 0.5


_RULES: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: RuleMode.layer_norm,
    F.rms_norm: RuleMode.rms_norm,
    F.normalize: RuleMode.normalize,
    F.scaled_dot_product_attention: RuleMode.attention,
    F.linear: RuleMode.linear,
    F.conv2d: RuleMode.linear,
    **dict.fromkeys((F.gelu, F.silu, torch.tanh, Tensor.tanh), RuleMode.activation),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid), RuleMode.constant),
}
"""Rules by function; sigmoids are the gates of QuickGELU."""

_aten: Any = torch.ops.aten
_ACTIVATIONS: dict[Any, tuple[float, Callable[..., Tensor]]] = {
    F.gelu: (0.5, lambda gradient, x, output, **options: _aten.gelu_backward(gradient, x, **options)),
    F.silu: (0.5, lambda gradient, x, output: _aten.silu_backward(gradient, x)),
    **dict.fromkeys(
        (torch.tanh, Tensor.tanh), (1.0, lambda gradient, x, output: _aten.tanh_backward(gradient, output))
    ),
}
"""Gate at 0 and ordinary backward of activation functions."""


class _Scaled(torch.autograd.Function):
    """The identity; by the rules its gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, mode: RuleMode, factor: Callable[[Rules], float], x: Tensor) -> Tensor:
        ctx.mode, ctx.factor = mode, factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        factor = 1.0 if ctx.mode.rules is None else ctx.factor(ctx.mode.rules)
        return None, None, gradients[0] if factor == 1 else factor * gradients[0] if factor else None


class _Activation(torch.autograd.Function):
    """An activation function f; by the rules x · g with the gate g = f(x) / x a constant."""

    @staticmethod
    def forward(ctx: Any, mode: RuleMode, func: Any, x: Tensor, options: dict[str, Any]) -> Tensor:
        output: Tensor = func(x, **options)
        ctx.mode, ctx.func, ctx.options = mode, func, options
        ctx.save_for_backward(x, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, output = ctx.saved_tensors
        gate_at_zero, ordinary = _ACTIVATIONS[ctx.func]
        if ctx.mode.rules is None:
            return None, None, ordinary(gradient, x, output, **ctx.options), None
        return None, None, gradient * (output / x).masked_fill_(x == 0, gate_at_zero), None


class _LayerNorm(torch.autograd.Function):
    """Layer norm; by the rules the standard deviation is a constant, the mean is not."""

    @staticmethod
    def forward(
        ctx: Any,
        mode: RuleMode,
        tokens: Tensor,
        shape: list[int],
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        output, mean, rstd = _aten.native_layer_norm(tokens, shape, weight, bias, eps)
        ctx.mode, ctx.shape = mode, shape
        ctx.save_for_backward(tokens, mean, rstd, weight, bias)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        tokens, mean, rstd, weight, bias = ctx.saved_tensors
        if ctx.mode.rules is None:
            arguments = gradient.contiguous(), tokens, ctx.shape, mean, rstd, weight, bias, [True, False, False]
            return None, _aten.native_layer_norm_backward(*arguments)[0], None, None, None, None
        scaled = gradient if weight is None else gradient * weight
        scaled = scaled - scaled.mean(tuple(range(-len(ctx.shape), 0)), keepdim=True)
        return None, scaled * rstd, None, None, None, None


class _RMSNorm(torch.autograd.Function):
    """RMS norm; by the rules the root of the mean square is a constant."""

    @staticmethod
    def forward(
        ctx: Any, mode: RuleMode, x: Tensor, shape: list[int], weight: Tensor | None, eps: float | None
    ) -> Tensor:
        ctx.mode, ctx.shape, ctx.eps = mode, shape, eps
        ctx.save_for_backward(x, weight)
        return F.rms_norm(x, shape, weight, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        if ctx.mode.rules is None:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                output = F.rms_norm(leaf, ctx.shape, weight, ctx.eps)
            return None, *torch.autograd.grad(output, leaf, gradient), None, None, None
        exact = upcast(x)
        eps = torch.finfo(x.dtype).eps if ctx.eps is None else ctx.eps
        mean_square = exact.square().mean(tuple(range(-len(ctx.shape), 0)), keepdim=True)
        scaled = gradient if weight is None else gradient * weight
        return None, (scaled * (mean_square + eps).rsqrt()).to(gradient.dtype), None, None, None
