"""Functions of torch that overwrite their input, and those that give the same value and overwrite nothing.

Relevance rules keep inputs and outputs, which must stay what they are.
"""

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor

_OUT_OF_PLACE: dict[Any, Any] = {
    **dict.fromkeys((Tensor.__iadd__, Tensor.add_), torch.add),
    **dict.fromkeys((Tensor.__isub__, Tensor.sub_), torch.sub),
    **dict.fromkeys((Tensor.__imul__, Tensor.mul_), torch.mul),
    **dict.fromkeys((Tensor.__itruediv__, Tensor.div_), torch.div),
    **dict.fromkeys((Tensor.relu_, torch.relu_), torch.relu),
    Tensor.sigmoid_: torch.sigmoid,
    Tensor.tanh_: torch.tanh,
}


def overwrites(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a call overwrites its first argument."""
    if func in _OUT_OF_PLACE:
        return True
    signature = _signature(func)
    return signature is not None and bool(signature.bind(*args, **kwargs).arguments.get("inplace", False))


def out_of_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the function that gives the same value and overwrites nothing, with its arguments."""
    signature = _signature(func)
    if signature is not None:
        bound = signature.bind(*args, **kwargs)
        bound.arguments.pop("inplace", None)
        return func, bound.args, bound.kwargs
    return _OUT_OF_PLACE.get(func, func), args, kwargs


@cache
def _signature(func: Any) -> inspect.Signature | None:
    """Return the signature of a function that has an option ``inplace``; None for every other one."""
    if not inspect.isfunction(func):
        return None
    signature = inspect.signature(func, follow_wrapped=False)  # of builtins there is none
    return signature if "inplace" in signature.parameters else None
