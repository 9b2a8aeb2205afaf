"""Modules that attend, watched while they run.

A ``TorchFunctionMode`` sees each call of ``scaled_dot_product_attention`` with the queries, keys and values that the
network really used (after q/k norm and rotary embedding); attention stays fused, and matrices are made from these
later, only where a method needs one. The mode belongs to the thread, so two networks in two threads do not meet.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from schemas.errors import UnsupportedModel


@dataclass
class Attention:
    """One call of attention. m queries, n keys, H heads of d channels.

    Attributes:
        query: [B, H, m, d].  key, value: [B, H, n, d].
        output: [B, H, m, d], with a graph where the trace has one.
        bias: what is added to the scores, broadcastable to [B, H, m, n], or None.
        scale: factor of the scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    bias: Tensor | None
    scale: float

    def scores(self, queries: slice = slice(None)) -> Tensor:
        """What the softmax is taken of, or some rows of it: [B, H, m, n], at least float32."""
        # The factor goes to the queries, which are few numbers beside the scores.
        scores = (upcast(self.query[:, :, queries]) * self.scale) @ upcast(self.key).transpose(-1, -2)
        if self.bias is not None:
            bias = self.bias.expand(-1, -1, self.query.shape[2], -1)
            scores = scores + bias[:, :, queries]
        return scores

    def probabilities(self, queries: slice = slice(None)) -> Tensor:
        """The attention matrix, or some rows of it: [B, H, m, n], rows sum to 1."""
        return self.scores(queries).softmax(-1)

    def gradient(self, of_output: Tensor, queries: slice = slice(None)) -> Tensor:
        """The gradient with respect to the attention matrix A, or some rows of it: [B, H, m, n].

        Attention is linear in A: output = A · value. So ∂s/∂A[h, i, j] = ⟨∂s/∂output[h, i], value[h, j]⟩.

        Args:
            of_output: ∂s/∂output, [B, H, m, d].
        """
        return upcast(of_output[:, :, queries]) @ upcast(self.value).transpose(-1, -2)


def upcast(tensor: Tensor) -> Tensor:
    """A tensor of autocast's half precision in float32: sums over many tokens are made there."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


@dataclass
class AttentionCall:
    """A module that attends, the call that it got, and what its attention did.

    Attributes:
        module: the attention or the pooler.
        tokens: [B, n, D], what it was called with (a block's ``norm1`` output).
        options: keyword arguments of that call.
        attention: the recorded attention.
    """

    module: nn.Module
    tokens: Tensor
    options: dict[str, Any]
    attention: Attention


@contextmanager
def capture_attention(module: nn.Module, take: Callable[[AttentionCall], None], leaf: bool = False) -> Iterator[None]:
    """Hand each call of a module that attends to ``take``, as a ``AttentionCall``.

    Args:
        leaf: cut the graph at the attention output and let a new one begin there.
    """
    mode = _Capture(leaf)

    def before(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        mode.__enter__()
        mode.call = (args[0], options)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        mode.__exit__(None, None, None)
        call, attention = mode.call, mode.attention
        mode.call = mode.attention = None
        if call is None or attention is None:
            raise UnsupportedModel(f"{type(module).__name__} attends by other means than fused attention")
        take(AttentionCall(module, call[0], call[1], attention))

    try:
        with module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after):
            yield
    finally:
        if mode.call is not None:  # the module raised in the middle of a call
            mode.__exit__(None, None, None)


class _Capture(TorchFunctionMode):
    """Sees fused attention while its module runs."""

    def __init__(self, leaf: bool) -> None:
        super().__init__()
        self.leaf = leaf
        self.call: tuple[Tensor, dict[str, Any]] | None = None
        self.attention: Attention | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is not F.scaled_dot_product_attention:
            return result
        query, key, value = args[:3]
        if self.leaf:
            result = result.detach().requires_grad_()
        bias = kwargs.get("attn_mask")
        scale = kwargs.get("scale") or query.shape[-1] ** -0.5
        self.attention = Attention(query, key, value, result, bias, scale)
        return result


class ReplaceAttentionOutput(TorchFunctionMode):
    """Puts a given tensor in the place of the output of fused attention.

    With it a block runs on the few tokens that a method asks about, while what they attended to was
    computed elsewhere; projection, residual and MLP stay the network's own code.
    """

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.output
        return func(*args, **(kwargs or {}))
