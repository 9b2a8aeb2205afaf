"""Contexts in which the functions that a network calls follow relevance rules, or are tried for having one."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.explain.function_rules import (
    CREATE,
    LINEAR_ATTENTIONS,
    NoRule,
    as_attention,
    call_by_rule,
    loses_kind,
)
from pipeline.explain.function_values import activations, function_name, kind_of, numbers, tensors
from pipeline.explain.overwriting import out_of_place, overwrites
from pipeline.explain.relevance_rules import RuleState
from pipeline.explain.uncompiled import uncompiled
from schemas.errors import UnsupportedModel


class RuleMode(TorchFunctionMode):
    """Context that replaces functions by ones with two derivatives; values stay the same.

    Args:
        state: switch between the derivatives.
    """

    def __init__(self, state: RuleState) -> None:
        super().__init__()
        self.state = state

    @contextmanager
    def on(
        self, model: nn.Module, attention: Iterable[nn.Module] = (), tokens: Iterable[nn.Module] = ()
    ) -> Iterator[None]:
        """Enter the mode for runs of a model or of parts of it.

        Code that was compiled by ``torch.compile`` runs as if it was not: compiled, it keeps the ordinary derivative.

        Args:
            model: the network.
            attention: modules with the projections of attention.
            tokens: modules whose biases ``RuleState.bias_sums`` counts.
        """
        with ExitStack() as stack:
            for module in attention:
                stack.enter_context(self._during(module, "in_attention"))
            for module in tokens:
                stack.enter_context(self._during(module, "in_tokens"))
            for module in model.modules():
                if kernel := LINEAR_ATTENTIONS.get(type(module)):
                    hook = module.get_submodule(kernel).register_forward_hook(self._as_attention)
                    stack.enter_context(hook)
            stack.enter_context(uncompiled())
            stack.enter_context(self)
            yield

    @contextmanager
    def _during(self, module: nn.Module, name: str) -> Iterator[None]:
        """Set an attribute of the state while a module runs, which may run in another one of these."""
        outside: list[bool] = []

        def before(*_: Any) -> None:
            outside.append(getattr(self.state, name))
            setattr(self.state, name, True)

        def after(*_: Any) -> None:
            setattr(self.state, name, outside.pop())

        with module.register_forward_pre_hook(before), module.register_forward_hook(after):
            yield

    def _as_attention(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return as_attention(self.state, output)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return call_by_rule(self.state, func, args, kwargs or {})
        except NoRule as fault:
            raise UnsupportedModel(f"there is no relevance rule: the network {fault}") from None


_ATTENTION = (F.scaled_dot_product_attention, F.softmax, torch.softmax, Tensor.softmax)

_SAVED_TENSORS = "it recomputes activations, or moves them; switch off activation checkpointing and save_on_cpu"
"""What code raises that enters ``saved_tensors_hooks``: what it runs again, it runs without the rules."""


class RuleCheck(RuleMode):
    """Context of one run that finds out whether there is a rule for every function that takes an activation.

    Args:
        images: of the run, with a gradient.

    Attributes:
        fault: the first one without, and the module that called it; None if there is a rule for each.
        attention: paths of the modules that compute softmax attention.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__(RuleState(keeps_gamma=True))
        self._images = images
        self.fault: str | None = None
        self.attention: dict[str, None] = {}
        self._calls: list[tuple[str, nn.Module]] = []
        self._known: set[Any] = set()  # nodes of the graph that were made by functions with a rule
        self._overwritten: dict[int, Any] = {}

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Enter the context, and note which module runs."""

        def enter(path: str) -> Callable[..., None]:
            return lambda module, args: self._calls.append((path, module))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            while self._calls and self._calls.pop()[1] is not module:
                pass

        with ExitStack() as stack:
            for path, module in model.named_modules():
                stack.enter_context(module.register_forward_pre_hook(enter(path)))
                stack.enter_context(module.register_forward_hook(leave))
            stack.enter_context(torch.autograd.graph.disable_saved_tensors_hooks(_SAVED_TENSORS))
            stack.enter_context(self.on(model))
            yield

    def finish(self, logits: Tensor) -> str | None:
        """Return the fault, if there is one, of a run that gave these logits."""
        if not self.fault and self._is_overwritten(logits):
            self.fault = "its logits are a tensor that it has overwritten"
        elif not self.fault and logits.grad_fn not in self._known:
            self.fault = "its logits are made by code that is no function of torch"
        elif not self.fault and kind_of(logits):
            self.fault = "its logits are the output of a softmax or of a sigmoid, which takes all relevance"
        self._known.clear()
        self._overwritten.clear()
        return self.fault

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = list(activations((args, kwargs)))
        if not self.fault and inputs:
            try:
                return self._call(func, inputs, args, kwargs)
            except NoRule as fault:
                self.fault = self._described(str(fault))
            except torch.OutOfMemoryError:  # which says nothing about the code, and what is found is kept
                raise
            except (TypeError, ValueError, RuntimeError) as error:  # NotImplementedError is a RuntimeError
                # Either the arguments are none that the rule takes, or the function does not take them itself: then
                # the call below raises it again.
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self.fault = self._described(f"uses {function_name(func)} as its rule does not cover ({reason})")
        result = func(*args, **kwargs)
        if not self.fault and tensors(result) and any(map(self._is_overwritten, tensors((args, kwargs)))):
            self.fault = self._described("uses a tensor that it has overwritten")
        return result

    def _as_attention(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        weights = super()._as_attention(module, args, output)
        with torch._C.DisableTorchFunction():
            self._known.add(weights.grad_fn)
        self.attention[self._calls[-1][0]] = None
        return weights

    def _described(self, fault: str) -> str:
        path, module = self._calls[-1] if self._calls else ("", None)
        where = f"{path} ({type(module).__name__})" if path else "the network"
        return f"{where} {fault}" + ", which has no relevance rule" * fault.startswith("calls ")

    def _call(self, func: Any, inputs: list[Tensor], args: Any, kwargs: dict[str, Any]) -> Any:
        result = call_by_rule(self.state, func, args, kwargs)
        if tensors(result) and any(map(self._is_overwritten, tensors((args, kwargs)))):
            raise NoRule("uses a tensor that it has overwritten")
        if not (found := numbers(result)):
            return result
        for each in inputs:
            if each.grad_fn is None and each is not self._images:
                raise NoRule("uses a tensor with a gradient that is no parameter of it; make it one, or detach it")
            if each.grad_fn is not None and each.grad_fn not in self._known:
                raise NoRule("runs code that is no function of torch")
        takes_shape_only = function_name(func) in CREATE and not any(True for _ in activations((args[1:], kwargs)))
        if not any(each.requires_grad for each in found) and not takes_shape_only:
            raise NoRule(f"calls {function_name(func)} without a gradient")
        if loses_kind(out_of_place(func, args, kwargs)[0], inputs, result):
            raise NoRule(f"calls {function_name(func)} of weights of attention or of a gate as if they were values")
        if func in _ATTENTION:
            self.attention[self._attention_path()] = None
        if overwrites(func, args, kwargs):
            storage = args[0].untyped_storage()
            self._overwritten[storage._cdata] = storage
        self._known.update(each.grad_fn for each in found if each.grad_fn is not None)
        return result

    def _is_overwritten(self, x: Tensor) -> bool:
        return bool(self._overwritten) and x.untyped_storage()._cdata in self._overwritten

    def _attention_path(self) -> str:
        """Return the path of the module that called a softmax, by ``nn.Softmax`` or by itself."""
        callers = [path for path, module in self._calls if not isinstance(module, nn.Softmax)]
        return callers[-1] if callers else ""
