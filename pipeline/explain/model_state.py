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

from pipeline.explain.module_classes import path_of
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
        modules = list(model.modules())
        _refuse_hooks(model, modules)
        with _evaluation_state(model, modules):
            yield


_WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)
"""Hooks that compute the weight of a module before it runs, and do nothing to its input and output."""


def _refuse_hooks(model: nn.Module, modules: list[nn.Module]) -> None:
    for module in modules:
        hooks = module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks
        for kind in filter(None, hooks):
            for hook in kind.values():
                if not isinstance(hook, _WEIGHT_HOOKS):
                    where = path_of(module, model) or "it"
                    name = getattr(hook, "__qualname__", type(hook).__qualname__)
                    raise UnsupportedModel(
                        f"{type(model).__name__} cannot be explained: {where} has a hook of other code "
                        f"({name}); remove it with the remove() of its handle"
                    )


_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


@contextmanager
def _evaluation_state(model: nn.Module, modules: list[Any]) -> Iterator[None]:
    # To set an attribute of a module costs microseconds, so only those that differ are set.
    training = [module for module in modules if module.training]
    unfused = [module for module in modules if not vars(module).get("fused_attn", True)]
    checkpointing = [module for module in modules if vars(module).get("grad_checkpointing", False)]
    parameters = [p for module in modules for p in module._parameters.values() if p is not None]
    differentiated = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for module in unfused:
            module.fused_attn = True
        for module in checkpointing:
            module.grad_checkpointing = False
        for parameter in differentiated:
            parameter.requires_grad_(False)
        device = parameters[0].device.type
        with torch.inference_mode(False), torch.autocast("cpu" if device == "meta" else device, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True
        for module in unfused:
            module.fused_attn = False
        for module in checkpointing:
            module.grad_checkpointing = True
        for parameter in differentiated:
            parameter.requires_grad_(True)
