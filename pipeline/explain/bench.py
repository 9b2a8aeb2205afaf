"""What methods cost on a network and a device, each alone and all in one pass."""

import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Literal

import torch
from torch import nn

from pipeline.explain.anatomy import Anatomy, describe
from pipeline.explain.explainer import Explainer, check_supported
from pipeline.explain.load import absolute_model_name, create_model
from pipeline.explain.method import Method
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.registry import methods as registry
from pipeline.explain.trace import autocast
from schemas.bench import BenchRecord, MethodCost
from schemas.errors import UsageError
from schemas.run import Precision

_COMPUTE = ("vit-atlas", "torch", "timm", "numpy")


def benchmark(
    name: str,
    methods: Iterable[str | Method] = (),
    *,
    device: Literal["cpu", "cuda"],
    batch: int,
    classes: int | None = None,
    precision: Precision = "full",
    repeats: int = 5,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BenchRecord:
    """Time methods on a network with random weights, on random images with one target each.

    F is one plain forward of the batch, its attention fused. Times are noisy where a machine has other work,
    so F is timed anew before each pass of the methods, and the median of the ratios is what is kept.

    Args:
        name: of a timm model.
        methods: as ``explain`` takes them; by default those of a run that names none.
        batch: images a forward.
        classes: of the classifier; by default the network's own number.
        repeats: how many timings each number is the median of.
        threads: of the CPU; by default as many as torch takes.
        progress: called with measurements done and in all: one for each method, and one for all together.

    Raises:
        UsageError: no such model, method or device, or a plain forward of the batch does not fit into memory.
        UnsupportedModel: see ``describe``.
        UnsupportedMethod: a method is not defined for this model. Nothing has been computed then.
        RunFailedError: a method does not fit into memory, not even for one image.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here; choose cpu")
    model = create_model(name) if classes is None else create_model(name, num_classes=classes)
    anatomy = describe(model)
    chosen = check_supported(registry.resolve(methods) or registry.defaults(anatomy), anatomy)
    measured: list[_Measured] = []
    with _threads(threads), preserve_model_state(model), _enough_memory(name, batch):
        bench = _Bench(model.to(device), anatomy, batch, precision, torch.device(device))
        for each in [*((method,) for method in chosen), chosen]:
            progress(len(measured), len(chosen) + 1)
            measured.append(bench.measure(each, repeats))
        seconds = median(timing.seconds for timing in bench.forwards)
        costs = [each.cost(batch / seconds) for each in measured]
        return BenchRecord(
            model=absolute_model_name(name),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            classes=anatomy.classes,
            grid=anatomy.grid,
            input_size=anatomy.input_size,
            device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
            threads=torch.get_num_threads(),
            precision=precision,
            batch_size=batch,
            repeats=repeats,
            versions={"python": platform.python_version()} | {package: version(package) for package in _COMPUTE},
            forward_seconds=seconds,
            forward_peak_bytes=_peak(bench.forwards),
            per_method={method.spec: cost for method, cost in zip(chosen, costs[:-1], strict=True)},
            all_methods=costs[-1],
        )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _enough_memory(name: str, batch: int) -> Iterator[None]:
    """A batch that is too large for a method is halved by the ``Explainer``, as in a run; F is whole or nothing."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UsageError(
            f"{name}: one forward of {batch} images does not fit into memory; choose a smaller batch"
        ) from None


@dataclass(frozen=True)
class _Timing:
    """Of one call: how long it took, and the most bytes that were allocated on a GPU; None on a CPU."""

    seconds: float
    peak: int | None


def _peak(timings: Iterable[_Timing]) -> int | None:
    return max((timing.peak for timing in timings if timing.peak is not None), default=None)


@dataclass(frozen=True)
class _Measured:
    """A pass of some methods: its cost in F, its peak, and its stages, each as in ``MethodCost``."""

    forwards: float
    peak: int | None
    stages: dict[str, float]

    def cost(self, images_per_s: float) -> MethodCost:
        """At so many images a second of F."""
        return MethodCost(
            forwards=self.forwards,
            images_per_s=images_per_s / self.forwards,
            peak_bytes=self.peak,
            stages=self.stages,
        )


class _Bench:
    """A network, ``preserve_model_state``, and a batch for it.

    Attributes:
        forwards: timings of plain forwards.
    """

    def __init__(
        self, model: nn.Module, anatomy: Anatomy, batch: int, precision: Precision, device: torch.device
    ) -> None:
        self.model, self.anatomy, self.precision, self.device = model, anatomy, precision, device
        random = torch.Generator().manual_seed(0)
        self.images = torch.randn(batch, 3, *anatomy.input_size, generator=random).to(device)
        self.targets = torch.randint(anatomy.classes, (batch, 1), generator=random).to(device)
        self.keys = [str(number) for number in range(batch)]
        self.forwards: list[_Timing] = []

    def measure(self, methods: tuple[Method, ...], repeats: int) -> _Measured:
        """Time passes of these methods over the batch."""
        laps = _Laps(self._now)
        explainer = Explainer(self.model, self.anatomy, methods, 0, self.precision, laps.lap)

        def explain() -> None:
            laps.start()
            explainer.maps(self.images, lambda rows, logits: self.targets[rows], self.keys)

        rounds = [(self._timed(self._forward), self._timed(explain), laps.seconds) for _ in range(repeats + 1)]
        del rounds[0]  # the first warms up: kernels are chosen, and how many images fit into memory is found out
        forwards, passes, seconds = zip(*rounds, strict=True)
        self.forwards += forwards
        stages = {stage: median(each[stage] for each in seconds) for stage in seconds[0]}
        texts = {method.name: method.spec for method in methods}
        return _Measured(
            forwards=median(each.seconds / forward.seconds for forward, each in zip(forwards, passes, strict=True)),
            peak=_peak(passes),
            stages={texts.get(stage, stage): share / sum(stages.values()) for stage, share in stages.items()},
        )

    def _forward(self) -> None:
        with torch.no_grad(), autocast(self.images, self.precision):
            self.model(self.images)

    def _timed(self, work: Callable[[], None]) -> _Timing:
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        begin = self._now()
        work()
        seconds = self._now() - begin
        return _Timing(seconds, torch.cuda.max_memory_allocated(self.device) if on_gpu else None)

    def _now(self) -> float:
        """Seconds on a clock. A GPU is waited for, so that its work is counted where it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class _Laps:
    """Seconds by stage of one pass."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def start(self) -> None:
        """Begin anew."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = self._now()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap to a stage."""
        now = self._now()
        self.seconds[stage] += now - self._last
        self._last = now
