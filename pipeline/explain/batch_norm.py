"""Gradients of batch norm in an order that torch reads right.

On a CPU the backward of batch norm in evaluation mode (torch 2.15, and others) reads the gradient of a batch of one in
the wrong order where its strides are those of a permuted tensor, as before tokens: the result is a wrong gradient
without an error. Such a gradient is therefore made contiguous.
"""

from typing import Any

from torch import Tensor


def order_batch_norm_gradients(output: Tensor) -> None:
    """Let every batch norm in the graph of a tensor receive its gradient in such an order; values are unchanged.

    The graph is walked once, which costs less than a context that sees each function of the forward.
    """
    nodes: list[Any] = [] if output.grad_fn is None else [output.grad_fn]
    known = set(nodes)
    for node in nodes:  # which grows
        if "BatchNorm" in node.name():
            node.register_prehook(_in_order)
        for earlier, _ in node.next_functions:
            if earlier is not None and earlier not in known:
                known.add(earlier)
                nodes.append(earlier)


def _in_order(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
    """Return the gradients of a batch norm's output and statistics; None, also for one of them, stands for 0."""
    gradient, *others = gradients
    if gradient is None or len(gradient) > 1 or gradient.is_contiguous():
        return None  # as they are
    return gradient.contiguous(), *others
