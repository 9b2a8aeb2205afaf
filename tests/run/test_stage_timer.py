"""Seconds by stage, on a CPU and on a GPU that is played by a queue with a clock of its own."""

import time
from typing import Any

import pytest
import torch

from pipeline.utils import timer
from pipeline.utils.timer import StageTimer


class Gpu:
    """A queue: its work takes until ``busy``, of which the host knows nothing unless it waits."""

    def __init__(self) -> None:
        self.host = self.busy = 0.0
        self.waited = 0

    def work(self, seconds: float) -> None:
        self.busy = max(self.busy, self.host) + seconds

    def event(self, enable_timing: bool = False) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def record(self, stream: Any) -> None:
        self.at = max(self.gpu.busy, self.gpu.host)

    def synchronize(self) -> None:
        self.gpu.waited += 1
        self.gpu.host = max(self.gpu.host, self.at)

    def elapsed_time(self, other: "Event") -> float:
        return 1000 * (other.at - self.at)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return gpu


def batches(gpu: Gpu, watch: StageTimer, reading: float, forward: float, count: int = 4) -> None:
    """As a worker does it: read, ask for a forward, look at what came of the last one."""
    for _ in range(count):
        gpu.host += reading
        watch.lap("read")
        gpu.work(forward)
        watch.lap("forward")


def test_a_lap_on_a_gpu_waits_for_nothing_and_its_seconds_are_those_of_the_gpu(gpu: Gpu) -> None:
    watch = StageTimer(torch.device("cuda"))
    batches(gpu, watch, reading=0.25, forward=1.0)
    assert (gpu.waited, gpu.host) == (0, 1.0)  # the host went on while the GPU was at its first batch
    seconds = watch.seconds()
    assert seconds["forward"] == pytest.approx(4.0)
    assert seconds["read"] == pytest.approx(0.25)  # in front of the first batch; of the others it went on beside
    assert (gpu.waited, gpu.host) == (1, 4.25)


def test_reading_that_a_gpu_waits_for_is_counted_in_full(gpu: Gpu) -> None:
    watch = StageTimer(torch.device("cuda"))
    batches(gpu, watch, reading=1.5, forward=1.0)
    seconds = watch.seconds()
    assert (seconds["read"], seconds["forward"]) == (pytest.approx(1.5 + 3 * 0.5), pytest.approx(4.0))


def test_marks_are_counted_up_before_they_are_many(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer, "_MAX_LAPS", 6)
    watch = StageTimer(torch.device("cuda"))
    batches(gpu, watch, reading=0.25, forward=1.0, count=10)
    assert gpu.waited == 3
    assert watch.seconds()["forward"] == pytest.approx(10.0)


def test_the_stages_of_a_cpu_are_all_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    watch = StageTimer(torch.device("cpu"))
    for stage in ("read", "forward", "read"):
        now += 1
        watch.lap(stage)
    assert watch.seconds() == {"read": 2, "forward": 1, "total": 3}
    watch.start()
    assert watch.seconds() == {"total": 0}
