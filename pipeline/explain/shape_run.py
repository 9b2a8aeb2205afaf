"""One forward without computation: the shapes of what the modules of a network return, and its way to the read-out."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.explain.readout_code import NoReadout, ReadoutCode
from pipeline.explain.rule_mode import RuleCheck
from pipeline.explain.structure import structure
from schemas.errors import UnsupportedModel

_RUNS: WeakKeyDictionary[nn.Module, tuple[Any, "ShapeRun"]] = WeakKeyDictionary()

_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError)
"""What networks raise for images of a size that they do not take."""


@dataclass
class ShapeRun:
    """What a forward of one image showed.

    Attributes:
        outputs: shape of the output of each module by its path, in the order in which they returned. Of a tuple it is
            that of its first tensor. A module that was called several times is left out.
        last_layer: path of the linear, convolutional or norm layer that returned last; empty if there is none.
        logits: shape of the output of the network.
        head_inputs: shapes of the inputs of ``forward_head``, in the order of its calls; None for what is no tensor.
        ends_in_head: whether the output of the network is that of ``forward_head``.
        no_rule: what has no relevance rule; None if every function that the network calls has one.
        attention: paths of the modules that compute attention by a softmax.
        readout: steps behind the last grid of a network without ``forward_head``, or why there are none; None before
            they are looked for.
    """

    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    last_layer: str = ""
    logits: tuple[int, ...] = ()
    head_inputs: list[tuple[int, ...] | None] = field(default_factory=list)
    ends_in_head: bool = False
    no_rule: str | None = None
    attention: tuple[str, ...] = ()
    readout: ReadoutCode | NoReadout | None = None


def run_shapes(model: nn.Module, size: tuple[int, int]) -> ShapeRun:
    """Run a network on one image on the meta device, where tensors have shapes and no values.

    The last run of a network is kept, and serves again as long as the structure of the network is what it was.
    Call it inside ``preserve_model_state(model)``, without autograd.

    Args:
        model: the network.
        size: height and width of the image.

    Raises:
        UnsupportedModel: it does not take such an image, or returns no logits.
    """
    key = size, structure(model)
    if model not in _RUNS or _RUNS[model][0] != key:
        _RUNS[model] = key, _run(model, size)
    return _RUNS[model][1]


def _run(model: nn.Module, size: tuple[int, int]) -> ShapeRun:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    dtype = next((tensor.dtype for _, tensor in tensors if tensor.is_floating_point()), torch.float32)
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    images = torch.empty(1, 3, *size, dtype=dtype, device="meta", requires_grad=True)
    try:
        # Without tie_weights: it would leave tensors of a module that has two names on the meta device.
        return _record(model, images, lambda: functional_call(model, on_meta, (images,), tie_weights=False))
    except _ERRORS:
        try:  # code that needs values, or has tensors that are no buffers
            device = tensors[0][1].device
            zeros = torch.zeros(1, 3, *size, dtype=dtype, device=device, requires_grad=True)
            return _record(model, zeros, lambda: model(zeros))
        except _ERRORS as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UnsupportedModel(
                f"{type(model).__name__} cannot be explained: it does not take images [1, 3, {size[0]}, {size[1]}] "
                f"({reason})"
            ) from None


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm with weights or statistics."""
    return "Norm" in type(module).__name__ and any((*module._parameters, *module._buffers))


@contextmanager
def observe_head(
    model: Any, on_call: Callable[[Any], Any], on_output: Callable[[Any], None] = lambda output: None
) -> Iterator[None]:
    """Pass the input of each call of ``forward_head`` through a function, and its output to another.

    Args:
        model: a network that has the method.
        on_call: returns what takes the place of the input.
        on_output: is given the output.
    """
    own = vars(model).get("forward_head")
    method = model.forward_head

    def forward_head(features: Any, *args: Any, **options: Any) -> Any:
        output = method(on_call(features), *args, **options)
        on_output(output)
        return output

    model.forward_head = forward_head
    try:
        yield
    finally:
        del model.forward_head
        if own is not None:
            model.forward_head = own


def _record(model: Any, images: Tensor, forward: Callable[[], Any]) -> ShapeRun:
    check = RuleCheck(images)
    try:
        with torch.enable_grad():
            run, logits = _observe(model, forward, check.watch(model))
    except _ERRORS as error:
        run, _ = _observe(model, forward, nullcontext())
        run.no_rule = check.fault or f"its code does not run where relevance rules are in force ({error})"
        return run
    run.no_rule, run.attention = check.finish(logits), tuple(check.attention)
    return run


def _observe(model: Any, forward: Callable[[], Any], context: AbstractContextManager[None]) -> tuple[ShapeRun, Tensor]:
    """Run a forward in a context; return what it showed, and the logits."""
    run = ShapeRun()
    called: set[str] = set()
    last: list[Any] = [None]

    def on_call(features: Any) -> Any:
        run.head_inputs.append(tuple(features.shape) if isinstance(features, Tensor) else None)
        return features

    def after(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(module, nn.Linear | nn.Conv2d) or is_norm(module):
                run.last_layer = path
            tensor = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(tensor, Tensor) and path not in called:
                run.outputs[path] = tuple(tensor.shape)
            elif path in called:
                run.outputs.pop(path, None)
            called.add(path)

        return hook

    with ExitStack() as stack:
        for path, module in model.named_modules():
            if path:
                stack.enter_context(module.register_forward_hook(after(path)))
        if hasattr(model, "forward_head"):
            stack.enter_context(observe_head(model, on_call, lambda output: last.__setitem__(0, output)))
        stack.enter_context(context)
        output = forward()
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 1:
        kind = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UnsupportedModel(
            f"{type(model).__name__} cannot be explained: of one image it returns {kind}, not logits [1, classes]"
        )
    run.logits, run.ends_in_head = tuple(output.shape), output is last[0]
    return run, output
