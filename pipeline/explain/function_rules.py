"""Relevance rules of the functions of torch: one registry, from which relevance and what it is refused for are read.

An activation is a tensor that depends on the images. Of a function that takes none, nothing has to be known.

| function | by the rules |
|---|---|
| layer, group and RMS norm, division by a length or by an activation | the divisor is a constant; the mean is not |
| GELU, SiLU, tanh, hardswish, … | f(x) = x · g with the gate g = f(x) / x a constant |
| attention, softmax | gradients of weights and values times the shares of ``Rules`` |
| sigmoid | a constant gate |
| product of two activations | half of the gradient to each; all of it to the values where the other is a constant |
| linear layer, convolution, batch norm | γ rule of ``Rules`` |
| sums, means, views, and what chooses among its inputs, as ReLU and max pooling do | ordinary |
| everything else | none: a network that calls it is refused |

A further function is one decorated function here; a network made of functions with rules needs nothing.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.efficientvit_mit import LiteMLA
from torch import Tensor, nn

from pipeline.explain.function_values import (
    activations,
    function_name,
    keep_kind,
    kind_of,
    mark,
    numbers,
    parts,
    tensors,
)
from pipeline.explain.linear_rules import bias_tap, linear_call, merge_batch_norm, note_use
from pipeline.explain.overwriting import out_of_place
from pipeline.explain.relevance_rules import (
    ACTIVATIONS,
    Activation,
    LayerNorm,
    RuleState,
    WithRule,
    group_norm_gradient,
    rms_norm_gradient,
)

Rule = Callable[..., Any]
"""Computes the value of a function: ``rule(state, function, *arguments, **options)``."""

LINEAR_ATTENTIONS: dict[type[nn.Module], str] = {LiteMLA: "kernel_func"}
"""Classes of attention without a softmax, with the module that computes kernels of queries and keys, its weights."""


class NoRule(Exception):  # noqa: N818 – a finding, which the description states
    """A function without a rule, with what it is."""


_RULES: dict[Any, Rule] = {}


def _rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Register the rule of functions."""

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(functions, rule))
        return rule

    return register


def call_by_rule(state: RuleState, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function of torch so that backward passes by rules can go through it.

    Args:
        state: switch between the backward passes.
        func: the function.
        args: its arguments.
        kwargs: likewise.

    Raises:
        NoRule: it takes an activation, and has no rule for it.
    """
    inputs = list(activations((args, kwargs)))
    if not inputs:
        return func(*args, **kwargs)
    func, args, kwargs = out_of_place(func, args, kwargs)
    result = _RULES.get(func, _without_rule)(state, func, *args, **kwargs)
    if func is not F.batch_norm and tensors(result):
        for each in inputs:
            note_use(each)
    return result


def _without_rule(state: RuleState, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function that returns a shape, a comparison, or else no numbers; refuse every other one."""
    name = function_name(func)
    changes = name.endswith("_") and not name.endswith("__") and name != "_"
    changes |= getattr(func, "__name__", "") in ("__setitem__", "__set__")
    if not changes and "out" not in kwargs:
        result = func(*args, **kwargs)
        if not numbers(result) and all(isinstance(each, _WITHOUT_NUMBERS) for each in parts(result)):
            return result
    raise NoRule(f"calls {name}")


_WITHOUT_NUMBERS = (Tensor, int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
"""What such a function may return. Others are arrays of NumPy, storages, and handles of hooks on gradients."""


def loses_kind(func: Any, inputs: list[Tensor], result: Any) -> bool:
    """Return whether a function takes weights of attention or a gate for values, and not as a factor of some."""
    if _RULES.get(func) in (_product, _einsum, _quotient):
        return False
    return any(map(kind_of, inputs)) and not all(map(kind_of, numbers(result)))


# -- what keeps its inputs, or adds, or chooses among them

CREATE = (
    *("zeros_like", "ones_like", "empty_like", "full_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
)
"""Names of functions that take of a tensor no numbers, but its shape and type."""

_ORDINARY = (
    *("add", "sub", "subtract", "neg", "sum", "mean", "cat", "concat", "concatenate", "stack"),
    *("reshape", "view", "flatten", "unflatten", "permute", "transpose", "movedim", "t"),
    *("squeeze", "unsqueeze", "expand", "repeat", "repeat_interleave", "chunk", "split", "unbind"),
    *("tensor_split", "roll", "flip", "narrow", "select", "index_select", "gather", "take_along_dim", "swapaxes"),
    *("index_copy", "index_add", "slice_scatter"),
    *("contiguous", "clone", "to", "float", "double", "half", "type", "bfloat16", "unfold", "masked_select"),
    *("relu", "abs", "amax", "amin", "max", "min", "maximum", "minimum", "masked_fill", "where", "cumsum"),
    *("__add__", "__radd__", "__sub__", "__rsub__", "rsub", "__neg__", "__getitem__", "positive", "adjoint"),
    *("detach", "requires_grad_"),  # of methods; in a network the check refuses what has no gradient
)
"""Names of functions of ``torch`` and of ``Tensor``; those that have no such function are skipped."""

_ORDINARY_OF_LAYERS = (
    *("pad", "interpolate", "upsample", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
    *("max_pool2d", "_max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d", "_adaptive_max_pool2d"),
    *("adaptive_max_pool2d_with_indices", "_adaptive_max_pool2d_with_indices", "fold", "unfold", "pixel_shuffle"),
    *("pixel_unshuffle", "relu", "leaky_relu", "channel_shuffle"),
)
"""Names of functions of ``torch.nn.functional``, likewise."""


def _ordinary_functions() -> list[Any]:
    names = ((owner, name) for owner in (torch, Tensor) for name in (*_ORDINARY, *CREATE))
    names_of_layers = ((F, name) for name in _ORDINARY_OF_LAYERS)
    found = (getattr(owner, name, None) for owner, name in (*names, *names_of_layers))
    properties = (getattr(getattr(Tensor, name), "__get__") for name in ("T", "mT"))  # noqa: B009
    return [each for each in found if each is not None] + list(properties)


@_rule(*_ordinary_functions())
def _ordinary(state: RuleState, func: Any, *args: Any, **kwargs: Any) -> Any:
    return keep_kind(func(*args, **kwargs), args, kwargs)


@_rule(Tensor.view_as, Tensor.reshape_as, Tensor.expand_as, Tensor.type_as)
def _shape_as(state: RuleState, func: Any, x: Tensor, other: Tensor) -> Any:
    return keep_kind(func(x, other), x)


@_rule(torch.dropout, F.dropout, F.dropout2d)
def _dropout(state: RuleState, func: Any, x: Tensor, p: float = 0.5, training: bool = True) -> Any:
    """Return x; refuse what draws random numbers, whose relevance is another one each time."""
    if training and p:
        raise NoRule(f"calls {function_name(func)} in training mode")
    return keep_kind(func(x, p, training), x)


# -- products and quotients


@_rule(torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__)
@_rule(torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__)
def _product(state: RuleState, func: Any, first: Any, second: Any) -> Any:
    """Share the relevance of a product of two activations."""
    return _shared(state, func, first, second)


def _shared(state: RuleState, product: Any, first: Any, second: Any) -> Any:
    """Compute a product of two factors; each factor gets its share of the gradient.

    A product of attention weights is attention again, and a product of gates is a gate.
    """
    if not all(any(True for _ in activations(each)) for each in (first, second)):
        return keep_kind(product(first, second), first, second)
    kinds = kind_of(first), kind_of(second)
    if "gate" not in kinds:
        weights = [lambda rules: rules.attention, lambda rules: 1 - rules.attention]
        shares = weights if kinds[1] is None else weights[::-1]
        if kinds[0] == kinds[1]:
            shares = [lambda rules: 0.5] * 2
        first, second = state.scaled(first, shares[0]), state.scaled(second, shares[1])
    result: Tensor = product(first, second)
    return result if None in kinds else mark(result, "attention" if "attention" in kinds else "gate")


@_rule(torch.einsum)
def _einsum(state: RuleState, func: Any, equation: Any, *operands: Any) -> Any:
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) > 2:
        raise NoRule("calls einsum of more than two tensors")
    if len(operands) == 2:
        return _shared(state, partial(func, equation), *operands)
    return keep_kind(func(equation, *operands), operands)


@_rule(torch.div, torch.divide, torch.true_divide, Tensor.div, Tensor.divide, Tensor.true_divide, Tensor.__truediv__)
def _quotient(state: RuleState, func: Any, x: Any, divisor: Any) -> Any:
    """Divide by a constant."""
    if not (isinstance(x, Tensor) and x.requires_grad):
        raise NoRule("divides a constant by an activation")
    if isinstance(divisor, Tensor) and divisor.requires_grad:
        divisor = state.constant(divisor)
    return keep_kind(func(x, divisor), x)


# -- attention and gates


@_rule(F.scaled_dot_product_attention)
def _attention(
    state: RuleState,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    if dropout_p:
        raise NoRule(f"calls {function_name(func)} with dropout")
    query, key = (state.scaled(x, lambda rules: rules.attention / 2) for x in (query, key))
    if attn_mask is not None and attn_mask.requires_grad:
        attn_mask = state.scaled(attn_mask, lambda rules: rules.attention)
    value = state.scaled(value, lambda rules: 1 - rules.attention)
    result: Tensor = func(query, key, value, attn_mask, dropout_p, *args, **kwargs)
    return result


@_rule(F.softmax, torch.softmax, Tensor.softmax)
def _softmax(state: RuleState, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    return as_attention(state, func(*args, **kwargs))


def as_attention(state: RuleState, weights: Tensor) -> Tensor:
    """Return weights of attention, which are constants by some rules."""
    return mark(state.scaled(weights, lambda rules: float(rules.attention > 0)), "attention")


@_rule(torch.sigmoid, Tensor.sigmoid, F.sigmoid, F.hardsigmoid)
def _gate(state: RuleState, func: Any, x: Tensor) -> Tensor:
    return mark(state.constant(func(x)), "gate")


# -- norms


@_rule(F.layer_norm)
def _layer_norm(
    state: RuleState,
    func: Any,
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Rule of layer norm, which runs in float32 under autocast."""
    _require_constant(func, weight, bias)
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        x = x.float()
    return _with_bias(state, LayerNorm.apply(state, x, list(normalized_shape), weight, bias, eps), bias)


@_rule(F.rms_norm)
def _rms_norm(
    state: RuleState,
    func: Any,
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    _require_constant(func, weight)
    shape = list(normalized_shape)
    by_rule = partial(rms_norm_gradient, shape=shape, weight=weight, eps=eps)
    result: Tensor = WithRule.apply(state, lambda x: func(x, shape, weight, eps), by_rule, x)
    return result


@_rule(F.group_norm)
def _group_norm(
    state: RuleState,
    func: Any,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    _require_constant(func, weight, bias)
    by_rule = partial(group_norm_gradient, groups=num_groups, weight=weight, eps=eps)
    result: Tensor = WithRule.apply(state, lambda x: func(x, num_groups, weight, bias, eps), by_rule, x)
    return result


@_rule(F.normalize)
def _normalize(
    state: RuleState, func: Any, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Tensor:
    """Rule of ``F.normalize``.

    With the ordinary gradient the relevance of a similarity would be 0: it does not depend on the length of x.
    """
    return keep_kind(x / state.constant(x.norm(p, dim, keepdim=True).clamp_min(eps)), x)


# -- activation functions, linear layers


@_rule(*ACTIVATIONS)
def _activation(state: RuleState, func: Any, x: Tensor, *options: Any, **named: Any) -> Tensor:
    result: Tensor = Activation.apply(state, func, x, options, named)
    return result


@_rule(F.prelu)
def _prelu(state: RuleState, func: Any, x: Tensor, weight: Tensor) -> Any:
    _require_constant(func, weight)
    return keep_kind(func(x, weight), x)


def _require_constant(func: Any, *weights: Tensor | None) -> None:
    """Refuse weights that are computed with a graph: rules pass all relevance to the input."""
    if any(weight is not None and weight.grad_fn is not None for weight in weights):
        raise NoRule(f"calls {function_name(func)} with weights that depend on the image")


@_rule(F.conv1d, F.conv2d)
def _convolution(
    state: RuleState,
    func: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if padding == "valid":
        padding = 0
    elif padding == "same" and stride in (1, (1,), (1, 1)):  # torch has it for no other stride
        padding = _same_padding(weight.shape[2:], dilation)
    return _linear(state, func, x, weight, bias, stride, padding, dilation, groups)


def _same_padding(kernel: Sequence[int], dilation: int | Sequence[int]) -> tuple[int, ...]:
    """Return the padding of each side by which a convolution keeps the size."""
    steps = [dilation] * len(kernel) if isinstance(dilation, int) else dilation
    both = [step * (length - 1) for step, length in zip(steps, kernel, strict=True)]
    if any(each % 2 for each in both):
        raise NoRule("calls a convolution that pads one side more than the other")
    return tuple(each // 2 for each in both)


@_rule(F.linear)
def _linear(
    state: RuleState, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, *options: Any
) -> Tensor:
    if weight.requires_grad:
        raise NoRule(f"calls {function_name(func)} with weights that depend on the image")
    if not state.keeps_gamma:
        return keep_kind(_with_bias(state, func(x, weight, bias, *options), bias), x)
    _require_constant(func, bias)
    in_attention, is_layer = state.in_attention, func is F.linear

    def gamma() -> float:
        if state.rules is None or (in_attention and not state.rules.gamma_in_attention):
            return 0.0
        return state.rules.gamma if is_layer else state.rules.convolution_gamma

    output = linear_call(gamma, func, x, weight, bias, options)
    return keep_kind(_with_bias(state, output, bias), x)


@_rule(F.batch_norm)
def _batch_norm(
    state: RuleState,
    func: Any,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Rule of batch norm in evaluation mode: a linear function of each channel, merged with a convolution before it."""
    if training or running_mean is None or running_var is None:
        raise NoRule("calls batch_norm with statistics of the batch")
    _require_constant(func, weight, bias)

    def norm(x: Tensor) -> Tensor:
        result: Tensor = func(x, running_mean, running_var, weight, bias, False, momentum, eps)
        return result

    scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - running_mean * scale
    return keep_kind(merge_batch_norm(x, norm, scale, shift), x)


def _with_bias(state: RuleState, output: Tensor, bias: Tensor | None) -> Tensor:
    """Let the gradient of an output reach ``bias_sums`` too. Norms of queries and keys have four dimensions."""
    counted = state.in_tokens and output.requires_grad and output.ndim == 3
    if state.bias_sums is None or bias is None or not counted:
        return output
    return bias_tap(output, bias, state.bias_sums)
