"""Seconds by stage, on the clock of the device that works."""

import time
from collections import defaultdict
from typing import Any

import torch

_KEPT = 4096
"""Marks that are kept before they are counted up: some of a hundred batches."""


class StageTimer:
    """Seconds by stage.

    A GPU works through a queue that the host fills ahead of it. There a lap is a mark in the queue, for which nobody
    waits; between two marks lies what the GPU was at, or waited for. So a stage in which the host reads or collects
    is as long as the GPU really waited for it, and takes nothing where it went on beside the network.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()

    def start(self) -> None:
        """Forget everything and begin."""
        self._begun = time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._last = self._mark()
        self._laps: list[tuple[str, Any]] = []

    def lap(self, stage: str) -> None:
        """Count the time since the last lap to a stage."""
        self._laps.append((stage, self._mark()))
        if len(self._laps) >= _KEPT:
            self._count()

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far, and their ``total``. Waits until a GPU is done with them."""
        self._count()
        return {**self._seconds, "total": time.perf_counter() - self._begun}

    def _mark(self) -> Any:
        """A moment on the clock of the device."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _count(self) -> None:
        on_gpu = self.device.type == "cuda"
        if on_gpu and self._laps:
            self._laps[-1][1].synchronize()
        for stage, mark in self._laps:
            self._seconds[stage] += self._last.elapsed_time(mark) / 1000 if on_gpu else mark - self._last
            self._last = mark
        self._laps.clear()
