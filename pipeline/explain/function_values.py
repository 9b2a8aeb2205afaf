"""Arguments and results of functions of torch: what depends on the images, what holds numbers, and what is a factor.

An activation is a tensor that depends on the images: one with a gradient, since parameters have none here.
"""

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor

Kind = Literal["attention", "gate"]
"""What the relevance of a product with a tensor depends on: weights of attention, or a gate."""


def activations(value: Any) -> Iterator[Tensor]:
    """List the tensors that depend on the images in a value, a list, or a dictionary, at any depth."""
    return (each for each in parts(value) if isinstance(each, Tensor) and each.requires_grad)


def tensors(value: Any) -> list[Tensor]:
    """List the tensors in a value, a list, or a dictionary, at any depth."""
    return [each for each in parts(value) if isinstance(each, Tensor)]


def parts(value: Any) -> Iterator[Any]:
    """List what is in a value, a list, or a dictionary, at any depth."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from parts(part)
    elif isinstance(value, dict):
        yield from parts(list(value.values()))
    else:
        yield value


def numbers(value: Any) -> list[Any]:
    """List the numbers in what a function returned, and its tensors of numbers; integers are positions and sizes."""
    return [
        each
        for each in parts(value)
        if isinstance(each, float | complex)
        or (isinstance(each, Tensor) and (each.is_floating_point() or each.is_complex()))
    ]


def function_name(func: Any) -> str:
    """Return the name of a function, as one would write it."""
    name = str(getattr(func, "__name__", func))
    return str(func.__self__.__name__) if name in ("__get__", "__set__") else name


def keep_kind(result: Any, *arguments: Any) -> Any:
    """Give a result the kind of the activations that it was computed from, where all have the same one."""
    kinds = {kind_of(each) for each in activations(arguments)}
    if len(kinds) == 1 and (kind := kinds.pop()) is not None:
        for each in tensors(result):
            mark(each, kind)
    return result


def kind_of(x: Tensor) -> Kind | None:
    """Return what a tensor is in products; None for values."""
    return getattr(x, "_relevance_kind", None)


def mark(x: Tensor, kind: Kind) -> Tensor:
    """Note on a tensor what it is in products, and return it."""
    x._relevance_kind = kind  # type: ignore[attr-defined]
    return x
