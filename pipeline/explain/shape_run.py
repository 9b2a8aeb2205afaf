"""One forward without computation: the shapes of what the modules of a network return, and its way to the read-out."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.explain.model_state import preserve_model_state
from schemas.errors import UnsupportedModel

_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError)
"""What networks raise for images of a size that they do not take."""


@dataclass
class ShapeRun:
    """What a forward of one image showed.

    Attributes:
        outputs: shape of the output of each module by its path, in the order in which they returned. Of a tuple it is
            that of its first tensor. A module that was called several times is left out.
        last_linear: the linear or 1 × 1 convolutional layer that returned last.
        logits: shape of the output of the network.
        head_inputs: inputs of ``forward_head``, in the order of its calls.
        ends_in_head: whether the output of the network is that of ``forward_head``.
    """

    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    last_linear: nn.Module | None = None
    logits: tuple[int, ...] = ()
    head_inputs: list[Any] = field(default_factory=list)
    ends_in_head: bool = False


def run_shapes(model: nn.Module, size: tuple[int, int]) -> ShapeRun:
    """Run a network on one image on the meta device, where tensors have shapes and no values.

    Args:
        model: the network.
        size: height and width of the image.

    Raises:
        UnsupportedModel: it does not take such an image, or returns no logits; or it has hooks of other code.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    dtype = next((tensor.dtype for _, tensor in tensors if tensor.is_floating_point()), torch.float32)
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    images = torch.empty(1, 3, *size, dtype=dtype, device="meta")
    with preserve_model_state(model), torch.no_grad():
        try:
            # Without tie_weights: it would leave tensors of a module that has two names on the meta device.
            return _record(model, lambda: functional_call(model, on_meta, (images,), tie_weights=False))
        except _ERRORS:
            try:  # code that needs values, or has tensors that are no buffers
                device = tensors[0][1].device
                return _record(model, lambda: model(torch.zeros(1, 3, *size, dtype=dtype, device=device)))
            except _ERRORS as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                raise UnsupportedModel(
                    f"{type(model).__name__} cannot be explained: it does not take images [1, 3, {size[0]}, {size[1]}] "
                    f"({reason})"
                ) from None


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


def _record(model: Any, forward: Callable[[], Any]) -> ShapeRun:
    run = ShapeRun()
    called: set[str] = set()
    last: list[Any] = [None]

    def on_call(features: Any) -> Any:
        run.head_inputs.append(features)
        return features

    def after(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(module, nn.Linear | nn.Conv2d):
                run.last_linear = module
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
        output = forward()
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 1:
        kind = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UnsupportedModel(
            f"{type(model).__name__} cannot be explained: of one image it returns {kind}, not logits [1, classes]"
        )
    run.logits, run.ends_in_head = tuple(output.shape), output is last[0]
    return run
