"""A step is taken only where its gradients are numbers."""

from collections.abc import Iterable

import torch
from torch import nn


def finite_gradients(parameters: Iterable[nn.Parameter], step: int, most: float = float("inf")) -> None:
    """Scale gradients down to a norm of ``most``.

    Raises:
        FloatingPointError: one is not finite, though the loss was.
    """
    norm = nn.utils.clip_grad_norm_(parameters, most)
    if not torch.isfinite(norm):
        raise FloatingPointError(f"the gradients of step {step} are {float(norm)}")
