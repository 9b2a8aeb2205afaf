"""Benchmark of methods on a model and a device, each alone and all in one pass."""

import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Any, Literal

import torch
from torch import nn

from pipeline.explain.description import describe
from pipeline.explain.explainer import Explainer, check_supported
from pipeline.explain.load import absolute_model_name, create_untrained
from pipeline.explain.method import Method
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.network import Network
from pipeline.explain.network_trace import autocast
from pipeline.explain.registry import methods as registry
from pipeline.utils.timer import StageTimer
from schemas.bench import BenchRecord, MethodCost
from schemas.errors import UsageError
from schemas.run import Precision

_RECORDED_PACKAGES = ("vit-atlas", "torch", "timm", "numpy")


def benchmark(
    name: str,
    methods: Iterable[str | Method] = (),
    *,
    device: Literal["cpu", "cuda"],
    batch_size: int,
    classes: int | None = None,
    head: str | None = None,
    precision: Precision = "full",
    repeats: int = 5,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BenchRecord:
    """Time methods on a model with random weights, on random images with one target each.

    F is one plain forward of the batch with fused attention. Other load of the machine makes times noisy, so F is
    timed again before each pass of the methods, and the result is the median of the ratios.

    Args:
        name: timm model.
        methods: as ``explain`` takes them; by default those of a run that names none.
        device: ``cpu`` or ``cuda``.
        batch_size: images per forward.
        classes: number of classes; by default the model's own.
        head: head file; it brings its own classes.
        precision: see ``explain``.
        repeats: number of timings of which each result is the median.
        threads: CPU threads; by default torch's own choice.
        progress: called with the measurements done and their total: one for each method, and one for all together.

    Raises:
        UsageError: no such model, head file, method or device, or a plain forward of the batch does not fit into
            memory.
        UnsupportedModel: see ``describe``.
        UnsupportedMethod: a method is not defined for this model; raised before any computation.
        RunFailedError: a method does not fit into memory, not even for one image.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device; choose cpu")
    model = create_untrained(name, head, classes)
    anatomy = describe(model)
    chosen = check_supported(registry.resolve(methods) or registry.defaults(anatomy), anatomy)
    passes: list[dict[str, Any]] = []
    with _cpu_threads(threads), preserve_model_state(model), _report_out_of_memory(name, batch_size):
        bench = _Benchmark(model.to(device), anatomy, batch_size, precision, torch.device(device))
        for group in [*((method,) for method in chosen), chosen]:
            progress(len(passes), len(chosen) + 1)
            passes.append(bench.measure(group, repeats))
        seconds = median(timing.seconds for timing in bench.forwards)
        costs = [MethodCost(images_per_s=batch_size / seconds / cost["forwards"], **cost) for cost in passes]
        return BenchRecord(
            model=absolute_model_name(name),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            classes=anatomy.classes,
            head=anatomy.head,
            grid=anatomy.grid,
            input_size=anatomy.input_size,
            device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
            threads=torch.get_num_threads(),
            precision=precision,
            batch_size=batch_size,
            repeats=repeats,
            versions={"python": platform.python_version()}
            | {package: version(package) for package in _RECORDED_PACKAGES},
            forward_seconds=seconds,
            forward_peak_bytes=_peak(bench.forwards),
            per_method={method.spec: cost for method, cost in zip(chosen, costs[:-1], strict=True)},
            all_methods=costs[-1],
        )


@contextmanager
def _cpu_threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _report_out_of_memory(name: str, batch_size: int) -> Iterator[None]:
    """Report that F does not fit into memory. For methods the ``Explainer`` halves the batch, as in a run."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UsageError(
            f"{name}: one forward of {batch_size} images does not fit into memory; choose a smaller batch size"
        ) from None


@dataclass(frozen=True)
class _Timing:
    """Duration of one call, and the largest allocation on a GPU in bytes; None on a CPU."""

    seconds: float
    peak_bytes: int | None


def _peak(timings: Iterable[_Timing]) -> int | None:
    return max((timing.peak_bytes for timing in timings if timing.peak_bytes is not None), default=None)


class _Benchmark:
    """A model and a batch for it. Use it inside ``preserve_model_state``.

    Attributes:
        forwards: timings of plain forwards.
    """

    def __init__(
        self, model: nn.Module, anatomy: Network, batch_size: int, precision: Precision, device: torch.device
    ) -> None:
        self.model, self.anatomy, self.precision, self.device = model, anatomy, precision, device
        random = torch.Generator().manual_seed(0)
        self.images = torch.randn(batch_size, 3, *anatomy.input_size, generator=random).to(device)
        self.targets = torch.randint(anatomy.classes, (batch_size, 1), generator=random).to(device)
        self.keys = [str(number) for number in range(batch_size)]
        self.forwards: list[_Timing] = []

    def measure(self, methods: tuple[Method, ...], repeats: int) -> dict[str, Any]:
        """Time passes of these methods over the batch; return the fields of ``MethodCost`` but ``images_per_s``."""
        timer = StageTimer(self.device)
        explainer = Explainer(self.model, self.anatomy, methods, 0, self.precision, timer.lap)

        def explain() -> None:
            timer.start()
            explainer.maps(self.images, lambda rows, logits: self.targets[rows], self.keys)

        rounds = [(self._time(self._forward), self._time(explain), timer.seconds()) for _ in range(repeats + 1)]
        del rounds[0]  # warm-up: kernels are chosen, and the largest batch size that fits into memory is found
        forwards, passes, seconds = zip(*rounds, strict=True)
        self.forwards += forwards
        stages = {stage: median(times[stage] for times in seconds) for stage in seconds[0] if stage != "total"}
        specs = {method.name: method.spec for method in methods}
        ratios = (timing.seconds / forward.seconds for forward, timing in zip(forwards, passes, strict=True))
        return {
            "forwards": median(ratios),
            "peak_bytes": _peak(passes),
            "stages": {specs.get(stage, stage): share / sum(stages.values()) for stage, share in stages.items()},
        }

    def _forward(self) -> None:
        with torch.no_grad(), autocast(self.images, self.precision):
            self.model(self.images)

    def _time(self, function: Callable[[], None]) -> _Timing:
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        start = self._now()
        function()
        seconds = self._now() - start
        return _Timing(seconds, torch.cuda.max_memory_allocated(self.device) if on_gpu else None)

    def _now(self) -> float:
        """Return the time in seconds after waiting for a GPU, so that its work is included."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
