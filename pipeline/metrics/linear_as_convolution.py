"""Linear layers computed by the convolution of oneDNN, which on some CPUs is faster than the product of MKL."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_GROUPS = 16
"""Images of the convolution. Of fewer, torch computes a 1 × 1 convolution with MKL in a process of one thread."""
_MIN_ROWS = 256
"""Rows of the smallest input for which a convolution is worth its start."""


class LinearAsConvolution(TorchFunctionMode):
    """Context in which linear layers of float32 on a CPU are computed as the 1 × 1 convolutions that they are.

    Rows [n, in] are 16 images of n / 16 pixels with channels last, so nothing is copied. Values and gradients
    differ by rounding from those outside of the context. Inputs whose rows are no multiple of 16, and everything else
    that torch computes, are left to torch.

    MKL uses AVX-512 on processors of Intel only. On an AMD EPYC of the fifth generation a convolution takes 0.45 of the
    time of the product, and a forward of the demo network 0.6.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute a function of torch."""
        if func is F.linear and args:
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = tokens.numel() // max(1, tokens.shape[-1])
    is_plain = tokens.device.type == "cpu" and tokens.dtype == weight.dtype == torch.float32
    if not is_plain or torch.is_autocast_enabled("cpu") or rows % _GROUPS or rows < _MIN_ROWS:
        return F.linear(tokens, weight, bias)
    pixels = tokens.reshape(_GROUPS, 1, rows // _GROUPS, tokens.shape[-1]).permute(0, 3, 1, 2)
    output = F.conv2d(pixels, weight[:, :, None, None], bias).permute(0, 2, 3, 1)
    return output.reshape(*tokens.shape[:-1], len(weight))
