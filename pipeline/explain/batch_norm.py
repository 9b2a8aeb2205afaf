"""Gradients of batch norm in an order that torch reads right.

On a CPU the backward of batch norm in evaluation mode (torch 2.15, and others) reads some gradients in the wrong order
where a side is 1, such as the number of images, and the gradient or the input has the strides of a permuted tensor, as
in front of tokens and behind them: the result is a wrong gradient without an error. A gradient with the strides of the
input is read right, whatever they are; one that is contiguous is not always.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

_NODE = "NativeBatchNormBackward0"
"""Name of the nodes of batch norms in a graph. On a GPU they have others as well, whose gradients are right."""


def order_batch_norm_gradients(output: Tensor) -> None:
    """Let every batch norm in the graph of a tensor receive its gradient in such an order; values are unchanged.

    The graph is walked once, which costs less than a context that sees each function of the forward.
    """
    nodes: list[Any] = [] if output.grad_fn is None else [output.grad_fn]
    known = set(nodes)
    for node in nodes:  # which grows
        if node.name() == _NODE:
            strides = torch.empty_like(node._saved_input, device="meta").stride()  # of its order, without gaps
            node.register_prehook(partial(_reorder, strides))
        for earlier, _ in node.next_functions:
            if earlier is not None and earlier not in known:
                known.add(earlier)
                nodes.append(earlier)


def _reorder(strides: tuple[int, ...], gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
    """Return the gradients of a batch norm's output and statistics; None, also for one of them, stands for 0."""
    gradient, *others = gradients
    if gradient is None or gradient.stride() == strides:
        return None  # as they are
    ordered = torch.empty_strided(gradient.shape, strides, dtype=gradient.dtype, device=gradient.device)
    return ordered.copy_(gradient), *others
