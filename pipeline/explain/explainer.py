"""``explain``: raw attribution maps of a batch of images by several methods."""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial, reduce
from operator import or_
from typing import get_args

import torch
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.capture import BackwardPass, Capture
from pipeline.explain.description import describe
from pipeline.explain.foreign_models import as_timm
from pipeline.explain.image_keys import ImageKeys
from pipeline.explain.map_batch import MapBatch
from pipeline.explain.method import Method
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.network import Network
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.record_network import record_network
from pipeline.explain.registry import methods as registry
from pipeline.explain.trace import record_forward
from pipeline.explain.weights_hash import weights_hash
from schemas.errors import RunFailedError, UnsupportedMethod, UsageError
from schemas.run import Precision

StageCallback = Callable[[str], None]
"""Called with the name of a stage when that stage ends."""

ClassIdsFn = Callable[[slice, Tensor], Tensor]
"""Returns the target classes, int64 [b, K], of some rows of a batch from their logits [b, C]."""


_OF_BLOCKS = (Capture.ATTENTION, Capture.TOKENS, Capture.GRAPH, Capture.MEAN_OUTPUTS)
"""What is recorded from some block on only, where no method asks for it before that one."""


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    methods: str | Method | Iterable[str | Method],
    *,
    keys: Sequence[str] | None = None,
    seed: int = 0,
    precision: Precision = "full",
) -> MapBatch:
    """Compute attribution maps of a batch by several methods, from one shared forward.

    Args:
        model: a network that ``describe`` takes: a vision transformer of timm or of another library (``as_timm``), or
            any other that returns logits of images. It is left as it was: mode, ``requires_grad``, hooks, weights.
        images: [B, 3, H, W], preprocessed, of the model's dtype and device.
        targets: int64 [B, K], the classes to explain, or one class for every image. A class that occurs twice in a
            row is computed once.
        methods: one or several, by name (``"legrad"``, ``"reciprocam:kernel=box"``) or as instances
            (``LeGrad(layers="last2")``).
        keys: a name for each image, from which methods that use random numbers take their seed. By default
            the hash of the image, so that a map does not depend on its batch.
        seed: combined with the keys.
        precision: ``full`` computes in the model's dtype; ``bfloat16`` and ``float16`` run the network under
            autocast, while the methods' own computations stay in float32.

    Returns:
        ``{name: float32 [B, K, h, w]}`` on the patch grid, or that of the method's layer, raw values; float64 if
        the model is. Maps that do not depend on the class are repeated over K. See ``MapBatch`` for logits
        and extra outputs.

    Raises:
        UnsupportedModel: see ``describe``; or a module of the model has hooks of other code.
        UnsupportedMethod: a method is not defined for this model; raised before any computation.
        UsageError: a method does not exist, or images, targets or keys do not fit.
        RunFailedError: not even one image fits into memory.
    """
    model = as_timm(model, images if isinstance(images, Tensor) else None)
    anatomy = describe(model, _size(images))
    entries = [methods] if isinstance(methods, str | Method) else methods
    chosen = check_supported(registry.resolve(entries), anatomy, cache(partial(weights_hash, model)))
    class_ids = _to_class_ids(targets, images)
    _check_arguments(model, anatomy, images, class_ids, keys, precision)
    keys = ImageKeys(images) if keys is None else keys
    with preserve_model_state(model):
        return Explainer(model, anatomy, chosen, seed, precision).maps(images, lambda rows, _: class_ids[rows], keys)


def check_supported(
    methods: Iterable[Method], anatomy: Network, weights: Callable[[], str] | None = None
) -> tuple[Method, ...]:
    """Return the methods if all are defined for the model.

    Args:
        methods: the methods.
        anatomy: of the model.
        weights: returns the hash of the model's weights, for methods that were trained on one model.

    Raises:
        UnsupportedMethod: one is not; the message gives the reason.
    """
    chosen = tuple(methods)
    for method in chosen:
        if reason := method.refusal(anatomy):
            raise UnsupportedMethod(f"{method.name} is not defined for {anatomy.family}: {reason}")
        trained_on = method.trained_on
        if weights and trained_on and trained_on != weights():
            raise UnsupportedMethod(
                f"{method.spec}: was trained for a model with other weights ({trained_on}); train it for this one"
            )
    return chosen


class Explainer:
    """Methods bound to a model, for many batches. Call it inside ``preserve_model_state(model)``.

    Args:
        model: the network.
        anatomy: its description.
        methods: methods that the model supports.
        seed: see ``explain``.
        precision: see ``explain``.
        on_stage_end: called after each forward and each method.
        first_target: number of the first targets whose maps are known. Methods that explain one class after another
            return zeros for these, and for images whose later target is the same class.

    Attributes:
        one_class_methods: those methods.
        max_batch_size: largest number of images that fit into memory; found by halving after an out-of-memory error.
    """

    def __init__(
        self,
        model: nn.Module,
        anatomy: Network,
        methods: tuple[Method, ...],
        seed: int,
        precision: Precision = "full",
        on_stage_end: StageCallback = lambda stage: None,
        first_target: int = 0,
    ) -> None:
        self.model, self.anatomy, self.methods = model, anatomy, methods
        self.seed, self.precision, self.on_stage_end, self.first_target = seed, precision, on_stage_end, first_target
        self.one_class_methods = tuple(
            method for method in methods if method.class_specific and not method.multi_target
        )
        self.passes: dict[BackwardPass, Capture] = {}
        for method in methods:
            others = self.passes.get(method.backward_pass, Capture.LAST_BLOCK)
            self.passes[method.backward_pass] = self._needs(method) | others
        self.capture = reduce(or_, self.passes.values(), Capture.LAST_BLOCK)
        self.first_blocks: dict[Capture, int] = {}
        for what in _OF_BLOCKS if isinstance(anatomy, Anatomy) else ():
            asking = [method for method in methods if what in self._needs(method)]
            self.first_blocks[what] = min((method.first_block(anatomy) for method in asking), default=0)
        names = (method.layer_name for method in methods)
        self.layers = tuple(dict.fromkeys(name for name in names if name is not None))
        self.max_batch_size = sys.maxsize

    def maps(self, images: Tensor, targets: ClassIdsFn, keys: Sequence[str]) -> MapBatch:
        """Compute maps as ``explain`` returns them, on the device of the images.

        Args:
            images: [B, 3, H, W], preprocessed.
            targets: returns int64 [b, K] for a slice of rows and their logits [b, C].
            keys: a name for each image.

        Raises:
            RunFailedError: not even one image fits into memory.
        """
        chunks: list[MapBatch] = []
        first = 0
        while first < len(images):
            rows = slice(first, min(len(images), first + self.max_batch_size))
            try:
                chunks.append(self._explain_chunk(images[rows], partial(targets, rows), keys[rows]))
            except torch.OutOfMemoryError as error:
                if rows.stop - first <= 1:
                    raise RunFailedError(
                        f"not even one image fits into memory ({str(error).splitlines()[0]}); "
                        "choose fewer methods, half precision, or another device"
                    ) from None
                self.max_batch_size = (rows.stop - first) // 2
                continue
            first = rows.stop
        return chunks[0] if len(chunks) == 1 else _concatenate(chunks)

    def _explain_chunk(self, images: Tensor, targets: Callable[[Tensor], Tensor], keys: Sequence[str]) -> MapBatch:
        """Compute the maps of images that fit into memory together."""
        trace = self._record(images, keys, self.capture)
        self.on_stage_end("forward")
        class_ids = targets(trace.logits).to(images.device).clone()  # a graph refuses tensors of inference mode
        count = class_ids.shape[1]
        trace.keeps_graph = count > 1 or len(self.methods) > 1
        if not count:
            empty = {
                method.name: images.new_empty(len(images), 0, *method.grid(self.anatomy)) for method in self.methods
            }
            return _to_map_batch(empty, self.methods, trace.logits)
        per_target, known = self.one_class_methods, self.first_target
        all_targets = tuple(method for method in self.methods if method not in per_target)
        values = self._compute(trace, class_ids, all_targets)
        columns = [self._zeros(images)] * known or [self._compute(trace, class_ids[:, :1], per_target)]
        for k in range(len(columns), count):
            columns.append(self._explain_extra_target(trace, class_ids[:, : k + 1], columns, per_target))
        values |= {name: torch.cat([column[name] for column in columns], 1) for name in columns[0]}
        repeated = {name: v if v.shape[1] == count else v.expand(-1, count, *v.shape[2:]) for name, v in values.items()}
        return _to_map_batch(repeated, self.methods, trace.logits)

    def _zeros(self, images: Tensor) -> dict[str, Tensor]:
        """Return what stands for the maps of a known target, and for their extra outputs."""
        values, count = dict[str, Tensor](), len(images)
        for method in self.one_class_methods:
            values[method.name] = images.new_zeros(count, 1, *method.grid(self.anatomy))
            values |= {f"{method.name}_{output}": images.new_zeros(count, 1) for output in method.extra_outputs}
        return values

    def _needs(self, method: Method) -> Capture:
        """Return what must be recorded for a method."""
        return method.needs(self.anatomy) | method.backward_pass.capture

    def _record(self, images: Tensor, keys: Sequence[str], capture: Capture) -> NetworkTrace:
        passes = {each: wanted & capture for each, wanted in self.passes.items()}
        of_run = capture, keys, self.seed, self.precision, passes
        if isinstance(self.anatomy, Anatomy):
            return record_forward(self.model, self.anatomy, images, *of_run, self.first_blocks)
        return record_network(self.model, self.anatomy, images, *of_run, self.layers)

    def _compute(self, trace: NetworkTrace, targets: Tensor, methods: tuple[Method, ...]) -> dict[str, Tensor]:
        """Compute the maps [B, K, h, w] of methods and their extra outputs [B, K]."""
        values = {}
        dtype = torch.float64 if trace.images.dtype == torch.float64 else torch.float32
        for method in methods:
            with torch.no_grad():
                values[method.name] = method.compute(trace, targets).to(dtype)
            values |= {f"{method.name}_{output}": value for output, value in trace.extra_outputs.items()}
            trace.extra_outputs.clear()
            self.on_stage_end(method.name)
        return values

    def _explain_extra_target(
        self, trace: NetworkTrace, targets: Tensor, columns: list[dict[str, Tensor]], methods: tuple[Method, ...]
    ) -> dict[str, Tensor]:
        """Compute the maps of the last of several targets; reuse those of an earlier target of the same class.

        Where only some images have a new target, only these are recorded again: for a label and a
        prediction that mostly agree, that is far less than a second backward of the whole batch.
        """
        earlier, last = targets[:, :-1], targets[:, -1:]
        same = earlier == last
        source = same.int().argmax(1)
        column = {
            name: torch.stack([c[name] for c in columns])[source, torch.arange(len(last), device=last.device)]
            for name in columns[0]
        }
        new = ~same.any(1)
        if methods and new.any():
            if not new.all():
                rows = new.nonzero()[:, 0]
                needed = reduce(or_, map(self._needs, methods), Capture.LAST_BLOCK)
                trace = self._record(trace.images[rows], [trace.keys[i] for i in rows.tolist()], needed)
                self.on_stage_end("forward")
            for name, maps in self._compute(trace, last[new], methods).items():
                column[name][new] = maps
        return column


def _to_map_batch(values: dict[str, Tensor], methods: tuple[Method, ...], logits: Tensor) -> MapBatch:
    """Separate maps, in the order of the methods, from extra outputs."""
    maps = MapBatch({method.name: values.pop(method.name) for method in methods})
    maps.logits, maps.extra_outputs = logits, values
    return maps


def _concatenate(chunks: list[MapBatch]) -> MapBatch:
    maps = MapBatch({name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]})
    maps.logits = torch.cat([chunk.logits for chunk in chunks])
    maps.extra_outputs = {
        name: torch.cat([chunk.extra_outputs[name] for chunk in chunks]) for name in chunks[0].extra_outputs
    }
    return maps


def _to_class_ids(targets: Tensor | int, images: Tensor) -> Tensor:
    """Return the targets as [B, K].

    Raises:
        UsageError: they are not a tensor or a number, or the images are not a tensor.
    """
    if not isinstance(images, Tensor):
        raise UsageError(f"images are of type {type(images).__name__}; they must be a tensor [B, 3, H, W]")
    if isinstance(targets, int) and not isinstance(targets, bool):
        return torch.full((len(images), 1), targets)
    if not isinstance(targets, Tensor):
        raise UsageError(
            f"targets are of type {type(targets).__name__}; they must be an int64 tensor [{len(images)}, K], such as "
            "model(images).argmax(1, keepdim=True), or one class for every image"
        )
    return targets


def _size(images: Tensor) -> tuple[int, int] | None:
    """Return height and width of images; None where they are no images."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        return None
    return images.shape[2], images.shape[3]


def _check_arguments(
    model: nn.Module,
    anatomy: Network,
    images: Tensor,
    targets: Tensor,
    keys: Sequence[str] | None,
    precision: Precision,
) -> None:
    weights = next(model.parameters())
    if (images.dtype, images.device) != (weights.dtype, weights.device):
        raise UsageError(
            f"images are {images.dtype} on {images.device}; the model takes {weights.dtype} on {weights.device}"
        )
    if precision not in get_args(Precision):
        raise UsageError(f"precision is {precision!r}; it can be {', '.join(get_args(Precision))}")
    if precision != "full" and images.dtype != torch.float32:
        raise UsageError(f"precision {precision} is for models in float32, not {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3 or tuple(images.shape[2:]) != anatomy.input_size:
        height, width = anatomy.input_size
        raise UsageError(f"images have shape {list(images.shape)}; this model takes [B, 3, {height}, {width}]")
    if not len(images):
        raise UsageError("there are no images to explain; give at least one")
    if targets.ndim != 2 or len(targets) != len(images) or targets.dtype != torch.int64:
        raise UsageError(f"targets are {targets.dtype} {list(targets.shape)}; they must be int64 [{len(images)}, K]")
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < anatomy.classes:
        raise UsageError(f"a target is outside of 0 … {anatomy.classes - 1}, the classes of this model")
    if keys is not None and len(keys) != len(images):
        raise UsageError(f"there are {len(keys)} keys for {len(images)} images")
