"""A network as methods need it, and afterwards as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn


@contextmanager
def preserve_model_state(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, fused attention, no parameter gradients; and everything as it was afterwards.

    Autocast and inference mode of the caller do not reach inside. A second thread that comes with the same
    model waits; but nothing keeps it from calling the model itself meanwhile.
    """
    with _LOCKS.setdefault(model, RLock()), _as_it_was(model):
        yield


_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    training = [(module, module.training) for module in model.modules()]
    modules: list[Any] = [module for module in model.modules() if hasattr(module, "fused_attn")]
    fused = [(module, module.fused_attn) for module in modules]
    checkpointing = getattr(model, "grad_checkpointing", None)
    learning = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for module, _ in fused:
            module.fused_attn = True
        if checkpointing:
            model.grad_checkpointing = False  # type: ignore[assignment]
        for parameter, _ in learning:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.autocast(learning[0][0].device.type, enabled=False):
            yield
    finally:
        for module, mode in training:
            module.training = mode
        for module, was_fused in fused:
            module.fused_attn = was_fused
        if checkpointing:
            model.grad_checkpointing = checkpointing
        for parameter, learns in learning:
            parameter.requires_grad_(learns)
