"""Gradients of batch norm in the memory layout of its output.

On a CPU the backward of batch norm in evaluation mode (torch 2.15, and others) reads the gradient of a batch of one in
the wrong order where its strides are those of a permuted tensor, as before tokens: the result is a wrong gradient
without an error. The gradient is therefore brought into the layout of the output.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OrderedBatchNormGradient(TorchFunctionMode):
    """Context in which batch norm receives its gradient in the layout of its output; values are unchanged."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.batch_norm and result.requires_grad:
            strides = result.stride()
            result.register_hook(lambda gradient: _restride(gradient, strides))
        return result


def _restride(gradient: Tensor | None, strides: tuple[int, ...]) -> Tensor | None:
    """Return the gradient with these strides; None, which stands for 0, as it is."""
    if gradient is None or gradient.stride() == strides:
        return gradient
    return torch.empty_strided(gradient.shape, strides, dtype=gradient.dtype, device=gradient.device).copy_(gradient)
