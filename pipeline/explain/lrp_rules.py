"""Two backward passes through one forward: the ordinary gradient, and the relevance-conserving one of CP-LRP.

While ``LRPMode`` is entered, layer norm, GELU, sigmoid gates, division by a norm, and attention compute their ordinary
values and save what both backward passes need. A backward pass inside ``lrp_backward()`` is the conserving one, every
other the ordinary one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class LRPMode(TorchFunctionMode):
    """Context that replaces functions by ones with two derivatives; values stay the same.

    Attributes:
        lrp: whether backward passes are the conserving ones now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lrp = False

    @contextmanager
    def lrp_backward(self) -> Iterator[None]:
        """Make the backward passes in this context conserving."""
        self.lrp = True
        try:
            yield
        finally:
            self.lrp = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.layer_norm:
            return _LayerNorm.apply(self, *_layer_norm_arguments(*args, **kwargs))
        if func is F.gelu:
            return _GELU.apply(self, args[0], kwargs.get("approximate", "none"))
        if func in (torch.sigmoid, Tensor.sigmoid):
            return _StopRelevance.apply(self, func(*args, **kwargs))
        if func is F.normalize:
            return _normalize(self, *args, **kwargs)
        if func is F.scaled_dot_product_attention:
            query, key, value, *rest = args
            query, key = _StopRelevance.apply(self, query), _StopRelevance.apply(self, key)
            return func(query, key, value, *rest, **kwargs)
        return func(*args, **kwargs)


def _layer_norm_arguments(
    tokens: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Any, ...]:
    """Return the arguments of ``F.layer_norm``; under autocast it runs in float32."""
    if torch.is_autocast_enabled(tokens.device.type):
        tokens = tokens.float()
    return tokens, list(normalized_shape), weight, bias, eps


def _normalize(mode: LRPMode, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    """Compute ``F.normalize``. Conserving: the norm is a constant, as the deviation of a layer norm is.

    With the ordinary gradient the relevance of a similarity would be 0: it does not depend on the length of x.
    """
    return x / _StopRelevance.apply(mode, x.norm(p, dim, keepdim=True).clamp_min(eps))


class _LayerNorm(torch.autograd.Function):
    """Layer norm. Conserving: the standard deviation is a constant, the mean is not."""

    @staticmethod
    def forward(
        ctx: Any,
        mode: LRPMode,
        tokens: Tensor,
        shape: list[int],
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        output, mean, rstd = torch.ops.aten.native_layer_norm(tokens, shape, weight, bias, eps)
        ctx.mode, ctx.shape = mode, shape
        ctx.save_for_backward(tokens, mean, rstd, weight, bias)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        tokens, mean, rstd, weight, bias = ctx.saved_tensors
        if ctx.mode.lrp:
            scaled = gradient if weight is None else gradient * weight
            scaled = scaled - scaled.mean(tuple(range(-len(ctx.shape), 0)), keepdim=True)
            result = scaled * rstd
        else:
            result = torch.ops.aten.native_layer_norm_backward(
                gradient.contiguous(), tokens, ctx.shape, mean, rstd, weight, bias, [True, False, False]
            )[0]
        return None, result, None, None, None, None


class _GELU(torch.autograd.Function):
    """GELU. Conserving: x · g with the gate g = GELU(x) / x a constant, ½ at 0."""

    @staticmethod
    def forward(ctx: Any, mode: LRPMode, x: Tensor, approximate: str) -> Tensor:
        output = torch.ops.aten.gelu(x, approximate=approximate)
        ctx.mode, ctx.approximate = mode, approximate
        ctx.save_for_backward(x, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, output = ctx.saved_tensors
        if ctx.mode.lrp:
            return None, gradient * (output / x).masked_fill_(x == 0, 0.5), None
        return None, torch.ops.aten.gelu_backward(gradient, x, approximate=ctx.approximate), None


class _StopRelevance(torch.autograd.Function):
    """The identity. Conserving: no gradient passes, so that a gate or a divisor is a constant."""

    @staticmethod
    def forward(ctx: Any, mode: LRPMode, x: Tensor) -> Tensor:
        ctx.mode = mode
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None if ctx.mode.lrp else gradients[0]
