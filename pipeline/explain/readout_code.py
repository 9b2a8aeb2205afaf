"""The read-out of a network without ``forward_head``: what its own code does behind the last grid of features."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from operator import attrgetter, getitem
from threading import RLock
from typing import Any
from warnings import catch_warnings

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Tracer
from torch.fx.node import map_arg

Shape = tuple[int, ...]
Size = tuple[int, int]

_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError, NameError)
"""What code raises that is run without values, or on zeros."""


_HALF_ROUNDING = 0.03
"""Largest difference between equal logits, as a fraction of the largest one of the image, in half precision."""

_TRACING = RLock()
"""Held by who follows a forward: torch.fx replaces the call of every module, and puts back what it has found."""


class NoReadout(Exception):  # noqa: N818 – a finding, which the description states
    """A read-out that cannot be run apart from the network, with the reason."""


@dataclass(frozen=True)
class ReadoutCode:
    """Steps of the forward of a network. They hold names of its modules and parameters, not these themselves.

    Attributes:
        source: the output of a module.
        grid: the last grid of features that is made of it.
        shape: of the grid, for one image.
        before: steps from the one to the other, such as an activation function.
        after: steps from the grid to the logits.
    """

    source: Node
    grid: Node
    shape: Shape
    before: tuple[Node, ...]
    after: tuple[Node, ...]

    @property
    def path(self) -> str:
        """Path of the module."""
        return str(self.source.target)

    def features(self, model: nn.Module, output: Tensor) -> Tensor:
        """Compute the grid of the output of the module, which may be overwritten."""
        features: Tensor = _run(model, self.before, {self.source: output})[self.grid]
        return features

    def logits(self, model: nn.Module, features: Tensor) -> Tensor:
        """Compute logits [B, C] of the grid, which may be overwritten."""
        logits: Tensor = _run(model, self.after, {self.grid: features})[self.after[-1]]
        return logits


def trace_forward(model: nn.Module, grids: Collection[str]) -> Graph:
    """Follow the code of a forward without values, by torch.fx. Modules that return grids are not looked into.

    Args:
        model: the network, which is left as it was.
        grids: paths of the modules that return features on a grid.

    Raises:
        NoReadout: the code depends on values, or cannot be followed for another reason.
    """
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    try:
        with _TRACING, catch_warnings(action="ignore"):  # about arguments of the forward other than images
            return _Tracer(grids).trace(model, _defaults(model))
    except _ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise NoReadout(f"torch.fx cannot follow its forward ({reason})") from None
    finally:  # the code may keep what it computes, and the tracer keeps constants
        for module, own in attributes:
            for name in vars(module).keys() - own.keys():
                del vars(module)[name]
            vars(module).update(own)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Return the default values of the arguments of a forward."""
    arguments = signature(model.forward).parameters.values()
    return {each.name: each.default for each in arguments if each.default is not Parameter.empty}


class _Tracer(Tracer):
    def __init__(self, grids: Collection[str]) -> None:
        super().__init__()
        self.grids = grids

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = f"{module_qualified_name}."
        return module_qualified_name in self.grids or not any(path.startswith(inside) for path in self.grids)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if m not in (self.submodule_paths or {}):  # such as a slice of layers, or a network that another thread runs
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def find_readout(
    model: nn.Module, graph: Graph, outputs: dict[str, Shape], grid_of: Callable[[Shape], Size | None]
) -> ReadoutCode:
    """Find the last grid of features on which alone the logits depend.

    Call it inside ``preserve_model_state(model)``, without autograd.

    Args:
        model: the network.
        graph: of its forward.
        outputs: shapes of the outputs of modules, by their paths.
        grid_of: returns rows and columns of a shape of features on a grid; None for other shapes.

    Raises:
        NoReadout: there is none.
    """
    sources = [node for node in graph.nodes if node.op == "call_module" and grid_of(outputs.get(str(node.target), ()))]
    if not sources:
        raise NoReadout("torch.fx does not meet the module of its last features in its forward")
    for source in reversed(sources):
        try:
            steps = _steps_behind(graph, source)
        except NoReadout:
            continue
        if any(step.target is getitem and step.args[0] is source and isinstance(step.args[1], int) for step in steps):
            raise NoReadout(f"{source.target} returns more than its features")
        weights = next(model.parameters())
        values = {source: torch.zeros(outputs[str(source.target)], dtype=weights.dtype, device=weights.device)}
        try:
            shapes = {node: tuple(getattr(value, "shape", ())) for node, value in _run(model, steps, values).items()}
        except torch.OutOfMemoryError:  # which says nothing about the code, and what is found is kept
            raise
        except _ERRORS as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise NoReadout(f"what its forward does behind {source.target} does not run on zeros ({reason})") from None
        for grid in reversed([source, *steps]):
            if grid_of(shapes[grid]):
                try:
                    after = _steps_behind(graph, grid)
                except NoReadout:
                    continue  # such as one of two branches
                if len({grid_of(shapes[node]) for node in (grid, *after)} - {None}) > 1:
                    raise NoReadout("its logits depend on grids of several sizes")
                return ReadoutCode(source, grid, shapes[grid], _steps_between(graph, source, grid), after)
    raise NoReadout(
        f"its logits depend on more than the output of {sources[-1].target}, or of another module that returns a grid"
    )


def prove_readout(model: nn.Module, code: ReadoutCode, size: Size) -> None:
    """Make sure that the steps give the logits of the forward, on one image of random numbers.

    They do not where the code overwrites what it reads again, draws random numbers, or enters a context such as
    autocast. Call it inside ``preserve_model_state(model)``, without autograd.

    Args:
        model: the network.
        code: the steps.
        size: height and width of the image.

    Raises:
        NoReadout: they do not.
    """
    weights = next(model.parameters())
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(weights)
    outputs: list[Tensor] = []
    try:
        with model.get_submodule(code.path).register_forward_hook(lambda *call: outputs.append(call[2].clone())):
            own_logits = model(image)
        logits = code.logits(model, code.features(model, outputs[0]))
    except torch.OutOfMemoryError:
        raise
    except _ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise NoReadout(f"what its forward does behind {code.path} does not run apart from it ({reason})") from None
    if not are_same_logits(logits, own_logits):
        raise NoReadout(
            f"what its forward does behind {code.path}, as torch.fx reads it, does not give the logits of the forward"
        )


def are_same_logits(logits: Tensor, other: Tensor) -> bool:
    """Return whether logits [B, C] of the same operations differ by no more than rounding, image by image."""
    largest = other.abs().nan_to_num(0, 0).amax(1, keepdim=True)
    rounding = min(100 * torch.finfo(logits.dtype).eps, _HALF_ROUNDING)
    equal = (logits == other) | (logits.isnan() & other.isnan())
    return bool((equal | ((logits - other).abs() <= rounding * largest)).all())


def _steps_behind(graph: Graph, start: Node) -> tuple[Node, ...]:
    """Return the steps from a node to the logits, in their order.

    Raises:
        NoReadout: the logits depend on the images in another way too.
    """
    return _steps_between(graph, start, graph.output_node())


def _steps_between(graph: Graph, start: Node, end: Node) -> tuple[Node, ...]:
    """Return the steps that compute the value of a node from that of another one, in their order."""
    needed: set[Node] = set()
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node is start or node in needed:
            continue
        if node.op == "placeholder":
            raise NoReadout(f"its logits depend on more than the output of {start}")
        needed.add(node)
        waiting += node.all_input_nodes
    return tuple(node for node in graph.nodes if node in needed)


def _run(model: nn.Module, steps: Sequence[Node], values: dict[Node, Any]) -> dict[Node, Any]:
    """Run steps on known values, and return these with those of the steps."""
    for step in steps:
        target: Any = step.target
        args, options = map_arg(step.args, values.__getitem__), map_arg(step.kwargs, values.__getitem__)
        if step.op == "call_module":
            values[step] = model.get_submodule(target)(*args, **options)
        elif step.op == "call_method":
            values[step] = getattr(args[0], target)(*args[1:], **options)
        elif step.op == "call_function":
            values[step] = target(*args, **options)
        elif step.op == "get_attr":
            values[step] = attrgetter(target)(model)
        else:  # output
            values[step] = args[0]
    return values
