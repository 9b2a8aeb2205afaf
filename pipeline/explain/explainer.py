"""A batch of images in, raw attribution maps of every method out."""

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from operator import or_
from typing import get_args

import torch
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy, describe
from pipeline.explain.load import weights_hash
from pipeline.explain.method import Method
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.registry import methods as registry
from pipeline.explain.trace import Capture, Trace, record_forward
from schemas.errors import RunFailedError, UnsupportedMethod, UsageError
from schemas.layout import Flag
from schemas.run import Precision

StageCallback = Callable[[str], None]
"""Called with the name of a stage when that stage is over."""

ClassIdsFn = Callable[[slice, Tensor], Tensor]
"""From some rows of a batch and their logits [b, C] to their targets, int64 [b, K]."""


class MapBatch(dict[str, Tensor]):
    """Maps by the name of their method, and what else is known of them.

    Attributes:
        logits: [B, C] of the network.
        extra_outputs: numbers that a method gives beside each map, [B, K] by ``<method>_<figure>``.
    """

    logits: Tensor
    extra_outputs: dict[str, Tensor]

    def flags(self, name: str) -> Tensor:
        """Whether each map of a method says anything: int8 [B, K] of ``Flag``."""
        return flags(self[name])


def flags(maps: Tensor) -> Tensor:
    """Whether maps say anything.

    Args:
        maps: [..., h, w], raw.

    Returns:
        int8 [...] of ``Flag``.
    """
    patches = maps.flatten(-2)
    constant = (patches == patches[..., :1]).all(-1)
    broken = ~patches.isfinite().all(-1)
    return torch.where(broken, int(Flag.NOT_FINITE), constant.int()).to(torch.int8)


def precision_error(maps: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """How far maps are from exact ones: max |difference| / max |exact|, median over the maps of a method.

    Args:
        maps, exact: [B, K, h, w] by method. Maps that are not finite, or zero where exact, are left out.
    """
    found = {}
    for name, values in maps.items():
        size = exact[name].abs().amax((2, 3))
        ratio = (values - exact[name]).abs().amax((2, 3)) / size
        ratio = ratio[ratio.isfinite()]
        if len(ratio):
            found[name] = float(ratio.median())
    return found


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    methods: str | Method | Iterable[str | Method],
    *,
    keys: Sequence[str] | None = None,
    seed: int = 0,
    precision: Precision = "full",
) -> MapBatch:
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
        precision: ``full`` computes in the model's dtype; ``bfloat16`` and ``float16`` run the network under
            autocast, while what methods make of it stays in float32.

    Returns:
        ``{name: float32 [B, K, h, w]}`` on the patch grid, raw values; float64 if the model is. Maps that do
        not depend on the class are repeated over K. See ``MapBatch`` for what comes with them.

    Raises:
        UnsupportedModel: see ``describe``.
        UnsupportedMethod: a method is not defined for this model. Nothing has been computed then.
        UsageError: a method does not exist, or images, targets or keys do not fit.
        RunFailedError: not even one image fits into memory.
    """
    anatomy = describe(model)
    entries = [methods] if isinstance(methods, str | Method) else methods
    chosen = check_supported(registry.resolve(entries), anatomy, lambda: weights_hash(model))
    _check(model, anatomy, images, targets, keys, precision)
    if keys is None:
        keys = [hashlib.sha256(_bytes(image)).hexdigest() for image in images.detach()]
    with preserve_model_state(model):
        return Explainer(model, anatomy, chosen, seed, precision).maps(images, lambda rows, _: targets[rows], keys)


def check_supported(
    methods: Iterable[Method], anatomy: Anatomy, weights: Callable[[], str] | None = None
) -> tuple[Method, ...]:
    """The methods, if all are defined for the network.

    Args:
        weights: gives the hash of the network, for methods that were trained on one.

    Raises:
        UnsupportedMethod: one is not; the message says why.
    """
    chosen = tuple(methods)
    for method in chosen:
        if reason := method.unsupported(anatomy):
            raise UnsupportedMethod(f"{method.name} is not defined for {anatomy.family}: {reason}")
        if weights and method.trained_on not in (None, weights()):
            raise UnsupportedMethod(f"{method.spec}: was trained on a network of other weights, {method.trained_on}")
    return chosen


class Explainer:
    """Methods bound to a model, for many batches. ``explain`` is one of these used once.

    The model must be ``preserve_model_state`` around every call.

    Attributes:
        max_batch_size: images that are known to fit into memory together; found out by halving, and kept.
    """

    def __init__(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        methods: tuple[Method, ...],
        seed: int,
        precision: Precision = "full",
        on_stage_end: StageCallback = lambda stage: None,
    ) -> None:
        self.model, self.anatomy, self.methods, self.seed, self.on_stage_end = (
            model,
            anatomy,
            methods,
            seed,
            on_stage_end,
        )
        self.precision = precision
        self.capture = reduce(or_, (method.needs(anatomy) for method in methods), Capture.LAST_BLOCK)
        self.max_batch_size = sys.maxsize

    def maps(self, images: Tensor, targets: ClassIdsFn, keys: Sequence[str]) -> MapBatch:
        """Maps as ``explain`` returns them. All tensors are of the images' device.

        Args:
            targets: gives int64 [b, K] for the logits [b, C] of so many rows.

        Raises:
            RunFailedError: not even one image fits into memory.
        """
        parts: list[MapBatch] = []
        first = 0
        while first < len(images):
            rows = slice(first, min(len(images), first + self.max_batch_size))
            try:
                parts.append(self._part(images[rows], partial(targets, rows), keys[rows]))
            except torch.OutOfMemoryError as error:
                if rows.stop - first <= 1:
                    raise RunFailedError(
                        f"not even one image fits into memory ({str(error).splitlines()[0]}); "
                        "choose fewer methods, half precision, or another device"
                    ) from None
                self.max_batch_size = (rows.stop - first) // 2
                continue
            first = rows.stop
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _part(self, images: Tensor, targets: Callable[[Tensor], Tensor], keys: Sequence[str]) -> MapBatch:
        """Maps of so many images as fit."""
        trace = self._record(images, keys)
        self.on_stage_end("forward")
        wanted = targets(trace.logits).to(images.device).clone()  # a graph refuses tensors of inference mode
        if not wanted.shape[1]:
            empty = images.new_empty(len(images), 0, *self.anatomy.grid)
            return _bound({method.name: empty for method in self.methods}, self.methods, trace.logits)
        each = tuple(method for method in self.methods if method.class_specific and not method.multi_target)
        once = tuple(method for method in self.methods if method not in each)
        found = self._compute(trace, wanted, once)
        columns = [self._compute(trace, wanted[:, :1], each)]
        for k in range(1, wanted.shape[1]):
            columns.append(self._next_column(trace, wanted[:, : k + 1], columns, each))
        found |= {name: torch.cat([column[name] for column in columns], 1) for name in columns[0]}
        count = wanted.shape[1]
        whole = {name: v if v.shape[1] == count else v.expand(-1, count, *v.shape[2:]) for name, v in found.items()}
        return _bound(whole, self.methods, trace.logits)

    def _record(self, images: Tensor, keys: Sequence[str]) -> Trace:
        return record_forward(self.model, self.anatomy, images, self.capture, tuple(keys), self.seed, self.precision)

    def _compute(self, trace: Trace, targets: Tensor, methods: tuple[Method, ...]) -> dict[str, Tensor]:
        """Maps [B, K, h, w] of methods, and their extra_outputs [B, K]."""
        found = {}
        dtype = torch.float64 if trace.images.dtype == torch.float64 else torch.float32
        for method in methods:
            with torch.no_grad():
                found[method.name] = method.compute(trace, targets).to(dtype)
            found |= {f"{method.name}_{output}": value for output, value in trace.extra_outputs.items()}
            trace.extra_outputs.clear()
            self.on_stage_end(method.name)
        return found

    def _next_column(
        self, trace: Trace, targets: Tensor, before: list[dict[str, Tensor]], methods: tuple[Method, ...]
    ) -> dict[str, Tensor]:
        """Maps of the last of several targets; what an earlier column already has is taken from there.

        Where only some images have a new target, only these are traced again: for a label and a
        prediction that mostly agree, that is far less than a second backward of the whole batch.
        """
        earlier, now = targets[:, :-1], targets[:, -1:]
        same = earlier == now
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
                self.on_stage_end("forward")
            for name, maps in self._compute(trace, now[fresh], methods).items():
                column[name][fresh] = maps
        return column


def _bound(found: dict[str, Tensor], methods: tuple[Method, ...], logits: Tensor) -> MapBatch:
    """Maps in the order of the methods, apart from their extra_outputs."""
    maps = MapBatch({method.name: found.pop(method.name) for method in methods})
    maps.logits, maps.extra_outputs = logits, found
    return maps


def _joined(parts: list[MapBatch]) -> MapBatch:
    maps = MapBatch({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    maps.logits = torch.cat([part.logits for part in parts])
    maps.extra_outputs = {
        name: torch.cat([part.extra_outputs[name] for part in parts]) for name in parts[0].extra_outputs
    }
    return maps


def _bytes(image: Tensor) -> bytes:
    return image.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _check(
    model: nn.Module,
    anatomy: Anatomy,
    images: Tensor,
    targets: Tensor,
    keys: Sequence[str] | None,
    precision: Precision,
) -> None:
    weights = next(model.parameters())
    if (images.dtype, images.device) != (weights.dtype, weights.device):
        raise UsageError(
            f"images are {images.dtype} on {images.device}, this model is {weights.dtype} on {weights.device}"
        )
    if precision not in get_args(Precision):
        raise UsageError(f"precision is {precision!r}; it can be {', '.join(get_args(Precision))}")
    if precision != "full" and images.dtype != torch.float32:
        raise UsageError(f"precision {precision} is for networks in float32, not {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3 or tuple(images.shape[2:]) != anatomy.input_size:
        height, width = anatomy.input_size
        raise UsageError(f"images have shape {list(images.shape)}; this model takes [B, 3, {height}, {width}]")
    if not len(images):
        raise UsageError("there are no images to explain")
    if targets.ndim != 2 or len(targets) != len(images) or targets.dtype != torch.int64:
        raise UsageError(f"targets are {targets.dtype} {list(targets.shape)}; they must be int64 [{len(images)}, K]")
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < anatomy.classes:
        raise UsageError(f"a target is outside of 0 … {anatomy.classes - 1}, the classes of this model")
    if keys is not None and len(keys) != len(images):
        raise UsageError(f"there are {len(keys)} keys for {len(images)} images")
