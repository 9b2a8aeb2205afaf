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

_END = object()
"""Behind the attributes, the parameters, the buffers and the parts of a module."""


def structure(model: nn.Module) -> tuple[Hashable, ...]:
    """Return what decides which shapes a network computes: modules, their attributes, and shapes of their tensors.

    Values of tensors, hooks and the mode of training are left out.
    """
    found: list[Any] = []
    _collect(model, found)
    return tuple(found)


def _collect(module: nn.Module, found: list[Any]) -> None:
    # One flat list: thousands of small tuples would start the garbage collector.
    found.append(type(module))
    for name, value in vars(module).items():
        if name not in _OWN:
            found += name, value if type(value) in _PLAINEST else _value(value)
    for tensors in (module._parameters, module._buffers):
        found.append(_END)
        for name, tensor in tensors.items():
            found += (name, None) if tensor is None else (name, tensor.shape, tensor.dtype)
    found.append(_END)
    for name, part in module._modules.items():
        found.append(name)
        if part is not None:
            _collect(part, found)
    found.append(_END)


def _value(value: Any) -> Hashable:
    """Return an attribute by its value, or by its identity where it has no simple one."""
    if type(value) in (tuple, list) and _PLAINEST.issuperset(map(type, value)):  # the most common ones
        return tuple(value)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, dict):
        return tuple((str(key), _value(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_value, value))
    return type(value), id(value)
