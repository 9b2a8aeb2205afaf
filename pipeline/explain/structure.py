"""The structure of a network, to tell whether it changed since it was looked at."""

from collections.abc import Hashable
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

_OWN = frozenset(vars(nn.Module()))
"""Attributes of every module: parameters, buffers, modules, hooks, mode."""

_PLAIN = (bool, int, float, str, bytes, type(None), type, Enum, torch.dtype, torch.device)
_PLAINEST = frozenset(_PLAIN)


def structure(model: nn.Module) -> Hashable:
    """Return what decides which shapes a network computes: modules, their attributes, and shapes of their tensors.

    Values of tensors, hooks and the mode of training are left out.
    """
    parts = tuple([(name, None if part is None else structure(part)) for name, part in model._modules.items()])
    return type(model), _attributes(model), _tensors(model), parts


def _attributes(module: nn.Module) -> tuple[Hashable, ...]:
    return tuple(
        [
            (name, value if type(value) in _PLAINEST else _value(value))
            for name, value in vars(module).items()
            if name not in _OWN
        ]
    )


def _tensors(module: nn.Module) -> tuple[Hashable, ...]:
    named = (*module._parameters.items(), *module._buffers.items())
    return tuple([(name, None if tensor is None else (tensor.shape, tensor.dtype)) for name, tensor in named])


def _value(value: Any) -> Hashable:
    """Return an attribute by its value, or by its identity where it has no simple one."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, dict):
        return tuple((str(key), _value(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_value, value))
    return type(value), id(value)
