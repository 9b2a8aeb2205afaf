"""Capture of the calls of attention modules while a model runs.

A ``TorchFunctionMode`` sees each call of ``scaled_dot_product_attention`` with the queries, keys and values that the
model really used (after q/k norm and rotary embedding). Attention stays fused; matrices are computed from these later,
only where a method needs one. The mode belongs to the thread, so models in different threads do not interfere.
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
class AttentionCall:
    """One call of an attention module: m queries, n keys, H heads of d channels.

    Attributes:
        module: the attention or the attention pooler.
        tokens: [B, n, D], its input (the ``norm1`` output of a block).
        options: keyword arguments of the call.
        query: [B, H, m, d].
        key: [B, H, n, d].
        value: [B, H, n, d].
        output: [B, H, m, d], with a graph where the trace has one.
        bias: term added to the scores, broadcastable to [B, H, m, n], or None.
        scale: factor of the scores.
    """

    module: nn.Module
    tokens: Tensor
    options: dict[str, Any]
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    bias: Tensor | None
    scale: float

    def scores(self, queries: slice = slice(None), images: slice = slice(None)) -> Tensor:
        """Compute the input of the softmax, or some rows of it: [B, H, m, n], at least float32."""
        # The factor goes to the queries, which are few numbers beside the scores.
        query, key = upcast(self.query[images, :, queries]), upcast(self.key[images])
        scores = (query * self.scale) @ key.transpose(-1, -2)
        if self.bias is not None:
            bias = self.bias.expand(len(self.query), -1, self.query.shape[2], -1)
            scores = scores + bias[images, :, queries]
        return scores

    def probabilities(self, queries: slice = slice(None), images: slice = slice(None)) -> Tensor:
        """Compute the attention matrix, or some rows of it: [B, H, m, n], rows sum to 1."""
        scores = self.scores(queries, images)
        return torch.softmax(scores, -1, out=None if scores.requires_grad else scores)  # in place: they are large

    def mean_probabilities(self) -> Tensor:
        """Compute the mean over heads of the attention matrix: [B, m, n].

        On a CPU image by image: the matrices of one stay in its cache, those of a batch go through memory.
        """
        if self.query.device.type != "cpu" or len(self.query) == 1:
            return self.probabilities().mean(1)
        images = (slice(index, index + 1) for index in range(len(self.query)))
        return torch.cat([self.probabilities(images=image).mean(1) for image in images])

    def gradient(self, output_gradient: Tensor, queries: slice = slice(None)) -> Tensor:
        """Compute the gradient with respect to the attention matrix A, or some rows of it.

        Attention is linear in A: output = A · value. So ∂s/∂A[h, i, j] = ⟨∂s/∂output[h, i], value[h, j]⟩.

        Args:
            output_gradient: ∂s/∂output, [B, H, m, d].
            queries: rows of A.

        Returns:
            [B, H, m, n].
        """
        return upcast(output_gradient[:, :, queries]) @ upcast(self.value).transpose(-1, -2)


def upcast(tensor: Tensor) -> Tensor:
    """Convert half precision to float32, for sums over many tokens; return other tensors as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


@contextmanager
def capture_attention(
    module: nn.Module, on_call: Callable[[AttentionCall], None], detach_output: bool = False
) -> Iterator[None]:
    """Pass each call of an attention module to ``on_call``.

    Args:
        module: attention or attention pooler.
        on_call: called after each call of the module.
        detach_output: cut the graph at the attention output and let a new one begin there.

    Raises:
        UnsupportedModel: the module does not call ``scaled_dot_product_attention``.
    """
    mode = _CaptureMode(detach_output)

    def before(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        mode.__enter__()
        mode.inputs = (args[0], options)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        mode.__exit__(None, None, None)
        inputs, attention = mode.inputs, mode.attention
        mode.inputs = mode.attention = None
        if inputs is None or attention is None:
            raise UnsupportedModel(f"{type(module).__name__} attends by other means than fused attention")
        query, key, value, result, bias, scale = attention
        on_call(AttentionCall(module, *inputs, query, key, value, result, bias, scale))

    try:
        with module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after):
            yield
    finally:
        if mode.inputs is not None:  # the module raised in the middle of a call
            mode.__exit__(None, None, None)


class _CaptureMode(TorchFunctionMode):
    """Record of the fused attention that runs inside a module.

    Attributes:
        inputs: tokens and keyword arguments of the module's call, while it runs.
        attention: query, key, value, output, bias and scale, once attention has run.
    """

    def __init__(self, detach_output: bool) -> None:
        super().__init__()
        self.detach_output = detach_output
        self.inputs: tuple[Tensor, dict[str, Any]] | None = None
        self.attention: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, float] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is not F.scaled_dot_product_attention:
            return result
        query, key, value = args[:3]
        if self.detach_output:
            result = result.detach().requires_grad_()
        scale = kwargs.get("scale") or query.shape[-1] ** -0.5
        self.attention = query, key, value, result, kwargs.get("attn_mask"), scale
        return result


class ReplaceAttentionOutput(TorchFunctionMode):
    """Context in which fused attention returns a given tensor.

    A block can so be run on the few tokens that a method needs, with an attention output that was computed
    elsewhere; projection, residual and MLP stay the model's own code.

    Args:
        output: [B, H, m, d].
    """

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.output
        return func(*args, **(kwargs or {}))
