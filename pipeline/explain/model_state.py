"""Temporary state of a model for methods: evaluation mode, fused attention, no parameter gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from schemas.errors import UnsupportedModel


@contextmanager
def preserve_model_state(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode and fused attention, switch off parameter gradients, and restore everything afterwards.

    Autocast and inference mode of the caller are switched off inside. A second thread that enters with the same
    model waits; this does not stop it from calling the model directly.

    Raises:
        UnsupportedModel: a module has hooks of other code. They may change what the network computes, and would be
            called with the few tokens or the masked copies that methods run its parts on.
    """
    with _LOCKS.setdefault(model, RLock()):
        _refuse_hooks(model)
        with _evaluation_state(model):
            yield


_WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)
"""Hooks that compute the weight of a module before it runs, and do nothing to its input and output."""


def _refuse_hooks(model: nn.Module) -> None:
    for path, module in model.named_modules():
        for kind in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
            for hook in getattr(module, kind).values():
                if not isinstance(hook, _WEIGHT_HOOKS):
                    name = getattr(hook, "__qualname__", type(hook).__qualname__)
                    raise UnsupportedModel(
                        f"{type(model).__name__} cannot be explained: {path or 'it'} has a hook of other code "
                        f"({name}); remove it with the remove() of its handle"
                    )


_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


@contextmanager
def _evaluation_state(model: nn.Module) -> Iterator[None]:
    training = [(module, module.training) for module in model.modules()]
    modules: list[Any] = [module for module in model.modules() if hasattr(module, "fused_attn")]
    fused = [(module, module.fused_attn) for module in modules]
    checkpointing = getattr(model, "grad_checkpointing", None)
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for module, _ in fused:
            module.fused_attn = True
        if checkpointing:
            model.grad_checkpointing = False  # type: ignore[assignment]
        for parameter, _ in gradients:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.autocast(gradients[0][0].device.type, enabled=False):
            yield
    finally:
        for module, mode in training:
            module.training = mode
        for module, is_fused in fused:
            module.fused_attn = is_fused
        if checkpointing:
            model.grad_checkpointing = checkpointing
        for parameter, requires_grad in gradients:
            parameter.requires_grad_(requires_grad)
