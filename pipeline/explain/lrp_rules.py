"""Two backward passes through one forward: the ordinary gradient, and the conserving one of CP-LRP.

While ``LRPMode`` is entered, layer norm, GELU and attention compute what they always do and note enough
for both. ``conserving()`` then says which of the two a backward is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Switch:
    """Which backward is meant; shared by all functions of one graph."""

    conserving = False


class LRPMode(TorchFunctionMode):
    """Gives the functions that have two derivatives a switch between them; values stay what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.switch = Switch()

    @contextmanager
    def conserving(self) -> Iterator[None]:
        """Backward passes in here are conserving."""
        self.switch.conserving = True
        try:
            yield
        finally:
            self.switch.conserving = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.layer_norm:
            return _Norm.apply(self.switch, *_norm_arguments(*args, **kwargs))
        if func is F.gelu:
            return _Gelu.apply(self.switch, args[0], kwargs.get("approximate", "none"))
        if func is F.scaled_dot_product_attention:
            query, key, value, *rest = args
            query, key = _Gate.apply(self.switch, query), _Gate.apply(self.switch, key)
            return func(query, key, value, *rest, **kwargs)
        return func(*args, **kwargs)


def _norm_arguments(
    tokens: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Any, ...]:
    """Arguments of ``F.layer_norm``; under autocast it runs in float32."""
    if torch.is_autocast_enabled(tokens.device.type):
        tokens = tokens.float()
    return tokens, list(normalized_shape), weight, bias, eps


class _Norm(torch.autograd.Function):
    """Layer norm. Conserving: the standard deviation is a constant, the mean is not."""

    @staticmethod
    def forward(
        ctx: Any,
        switch: Switch,
        tokens: Tensor,
        shape: list[int],
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        output, mean, rstd = torch.ops.aten.native_layer_norm(tokens, shape, weight, bias, eps)
        ctx.switch, ctx.shape = switch, shape
        ctx.save_for_backward(tokens, mean, rstd, weight, bias)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        tokens, mean, rstd, weight, bias = ctx.saved_tensors
        if ctx.switch.conserving:
            scaled = gradient if weight is None else gradient * weight
            scaled = scaled - scaled.mean(tuple(range(-len(ctx.shape), 0)), keepdim=True)
            result = scaled * rstd
        else:
            result = torch.ops.aten.native_layer_norm_backward(
                gradient.contiguous(), tokens, ctx.shape, mean, rstd, weight, bias, [True, False, False]
            )[0]
        return None, result, None, None, None, None


class _Gelu(torch.autograd.Function):
    """GELU. Conserving: x · g with the gate g = GELU(x) / x a constant, ½ at 0."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, x: Tensor, approximate: str) -> Tensor:
        output = torch.ops.aten.gelu(x, approximate=approximate)
        ctx.switch, ctx.approximate = switch, approximate
        ctx.save_for_backward(x, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, output = ctx.saved_tensors
        if ctx.switch.conserving:
            return None, gradient * (output / x).masked_fill_(x == 0, 0.5), None
        return None, torch.ops.aten.gelu_backward(gradient, x, approximate=ctx.approximate), None


class _Gate(torch.autograd.Function):
    """The identity. Conserving: no gradient passes."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, x: Tensor) -> Tensor:
        ctx.switch = switch
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None if ctx.switch.conserving else gradients[0]
