"""A batch of images in, raw attribution maps of every method out."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import or_

import torch
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy, describe
from pipeline.explain.method import Method
from pipeline.explain.registry import methods as registry
from pipeline.explain.trace import Need, Trace, record, undisturbed
from schemas.errors import UnsupportedMethod, UsageError

Lap = Callable[[str], None]
"""Called with the name of a stage when that stage is over."""


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    methods: str | Method | Iterable[str | Method],
    *,
    keys: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Attribution maps of a batch by several methods, from one shared forward.

    Args:
        model: a timm vision transformer. It comes back as it was: mode, ``requires_grad``, hooks, weights.
        images: [B, 3, H, W], preprocessed, of the model's dtype and device.
        targets: int64 [B, K], the classes to explain. A class that stands twice in a row is computed once.
        methods: one or several, by name (``"legrad"``, ``"reciprocam:kernel=box"``) or as instances
            (``LeGrad(layers="last2")``).
        keys: a name for each image, from which methods that draw at random take their seed. By default
            the images themselves are hashed, so that a map does not depend on its batch.
        seed: the other half of that seed.

    Returns:
        {name: float32 [B, K, h, w]} on the patch grid, raw values; float64 if the model is. Maps that do
        not depend on the class are repeated over K.

    Raises:
        UnsupportedModel: see ``describe``.
        UnsupportedMethod: a method is not defined for this model. Nothing has been computed then.
        UsageError: a method does not exist, or images, targets or keys do not fit.
    """
    anatomy = describe(model)
    entries = [methods] if isinstance(methods, str | Method) else methods
    chosen = supported(registry.resolve(entries), anatomy)
    _check(anatomy, images, targets, keys)
    if keys is None:
        keys = [hashlib.sha256(image.cpu().numpy().tobytes()).hexdigest() for image in images]
    with undisturbed(model):
        return Explainer(model, anatomy, chosen, seed).maps(images, targets, keys)[0]


def supported(methods: Iterable[Method], anatomy: Anatomy) -> tuple[Method, ...]:
    """The methods, if all are defined for the network.

    Raises:
        UnsupportedMethod: one is not; the message says why.
    """
    chosen = tuple(methods)
    for method in chosen:
        if reason := method.unsupported(anatomy):
            raise UnsupportedMethod(f"{method.name} is not defined for {anatomy.family}: {reason}")
    return chosen


class Explainer:
    """Methods bound to a model, for many batches. ``explain`` is one of these used once.

    The model must be ``undisturbed`` around every call.
    """

    def __init__(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        methods: tuple[Method, ...],
        seed: int,
        lap: Lap = lambda stage: None,
    ) -> None:
        self.model, self.anatomy, self.methods, self.seed, self.lap = model, anatomy, methods, seed, lap
        self.need = reduce(or_, (method.need for method in methods), Need.LAST)

    def maps(
        self, images: Tensor, targets: Tensor | Callable[[Tensor], Tensor], keys: Sequence[str]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Maps as ``explain`` returns them, and the logits [B, C].

        Args:
            targets: int64 [B, K], or a function that makes them from the logits.
        """
        trace = self._record(images, keys)
        self.lap("forward")
        wanted = targets(trace.logits) if callable(targets) else targets
        wanted = wanted.to(images.device)
        if not wanted.shape[1]:
            empty = images.new_empty(len(images), 0, *self.anatomy.grid)
            return {method.name: empty for method in self.methods}, trace.logits
        columns = [self._column(trace, wanted[:, 0], self.methods)]
        by_class = tuple(method for method in self.methods if method.by_class)
        for k in range(1, wanted.shape[1]):
            columns.append(self._next_column(trace, wanted[:, : k + 1], columns, by_class))
        stacked = {method.name: torch.stack([column[method.name] for column in columns], 1) for method in self.methods}
        return stacked, trace.logits

    def _record(self, images: Tensor, keys: Sequence[str]) -> Trace:
        return record(self.model, self.anatomy, images, self.need, tuple(keys), self.seed)

    def _column(self, trace: Trace, targets: Tensor, methods: tuple[Method, ...]) -> dict[str, Tensor]:
        """Maps [B, h, w] of one target for each image."""
        column = {}
        for method in methods:
            column[method.name] = method.compute(trace, targets).detach()
            self.lap(method.name)
        return column

    def _next_column(
        self, trace: Trace, targets: Tensor, before: list[dict[str, Tensor]], methods: tuple[Method, ...]
    ) -> dict[str, Tensor]:
        """Maps of the last of several targets; what an earlier column already has is taken from there.

        Where only some images have a new target, only these are traced again: for a label and a
        prediction that mostly agree, that is far less than a second backward of the whole batch.
        """
        earlier, now = targets[:, :-1], targets[:, -1]
        same = earlier == now[:, None]
        source = same.int().argmax(1)
        column = {
            name: torch.stack([c[name] for c in before])[source, torch.arange(len(now), device=now.device)]
            for name in before[0]
        }
        fresh = ~same.any(1)
        if methods and fresh.any():
            if not fresh.all():
                rows = fresh.nonzero()[:, 0]
                trace = self._record(trace.images[rows], [trace.keys[i] for i in rows.tolist()])
                self.lap("forward")
            for name, maps in self._column(trace, now[fresh], methods).items():
                column[name][fresh] = maps
        return column


def _check(anatomy: Anatomy, images: Tensor, targets: Tensor, keys: Sequence[str] | None) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or tuple(images.shape[2:]) != anatomy.input_size:
        height, width = anatomy.input_size
        raise UsageError(f"images have shape {list(images.shape)}; this model takes [B, 3, {height}, {width}]")
    if targets.ndim != 2 or len(targets) != len(images) or targets.dtype != torch.int64:
        raise UsageError(f"targets are {targets.dtype} {list(targets.shape)}; they must be int64 [{len(images)}, K]")
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < anatomy.classes:
        raise UsageError(f"a target is outside of 0 … {anatomy.classes - 1}, the classes of this model")
    if keys is not None and len(keys) != len(images):
        raise UsageError(f"there are {len(keys)} keys for {len(images)} images")
