"""Timer of stages on the clock of the device."""

import time
from collections import defaultdict
from typing import Any

import torch

_MAX_LAPS = 4096
"""Laps that are kept before they are added up: those of some hundred batches."""


class StageTimer:
    """Seconds by stage.

    A GPU executes a queue that the host fills ahead of it. There a lap is an event in the queue, for which the host
    does not wait; the time between two events is what the GPU computed or waited. So a stage in which the host reads or
    collects counts only for as long as the GPU waited for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()

    def start(self) -> None:
        """Reset the timer and start it."""
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._last = self._mark()
        self._laps: list[tuple[str, Any]] = []

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        self._laps.append((stage, self._mark()))
        if len(self._laps) >= _MAX_LAPS:
            self._add_laps()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage so far, and their ``total``. Waits for the GPU."""
        self._add_laps()
        return {**self._seconds, "total": time.perf_counter() - self._started}

    def _mark(self) -> Any:
        """Return a time, or an event in the queue of the GPU."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _add_laps(self) -> None:
        on_gpu = self.device.type == "cuda"
        if on_gpu and self._laps:
            self._laps[-1][1].synchronize()
        for stage, mark in self._laps:
            self._seconds[stage] += self._last.elapsed_time(mark) / 1000 if on_gpu else mark - self._last
            self._last = mark
        self._laps.clear()
