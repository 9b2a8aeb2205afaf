"""Progress bars on standard error, if it is a terminal; and how long the work will take, which is said once."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.utils.console import SafeConsole
from schemas.text import escape_control

T = TypeVar("T")

_SPEED_PERIOD = 600.0
"""Seconds over which the bar measures speed; a shard may take minutes."""
_MEASURED = 2.0
"""Seconds of work from which the whole is estimated."""
_ANNOUNCED = 20.0
"""Seconds of work that are worth a line."""


def make_progress(transient: bool = False) -> Progress:
    """Return a display of bars with a description, the number of items done, and the time.

    Args:
        transient: remove the bars at the end.
    """
    console = SafeConsole(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    return Progress(
        *columns,
        *times,
        console=console,
        transient=transient,
        disable=not console.is_terminal,
        speed_estimate_period=_SPEED_PERIOD,
    )


class Bar:
    """Bar of one piece of work. As soon as it can be told, a line says how long all of it will take, if that is long.

    It may be updated by several threads.

    Args:
        bars: the display.
        description: of the work.
        total: number of its items; None: the first update says it.
        at_once: see below.
        clock: seconds.

    Attributes:
        at_once: number of items that are worked on at the same time, so that the first ones to be done, after as long
            as one of them takes, do not stand for all.
    """

    def __init__(
        self,
        bars: Progress,
        description: str,
        total: int | None = None,
        at_once: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bars, self._name, self._total, self.at_once, self._clock = bars, description, total, at_once, clock
        self._task = bars.add_task(escape_control(description), total=total)
        self._lock = Lock()
        self._largest, self._announced = 0.0, False
        self.restart()

    def restart(self, done: int = 0) -> None:
        """Measure from now on; what came before was preparation.

        Args:
            done: number of items that were done before.
        """
        self._first = self._done = float(done)
        self._started = self._clock()

    def update(self, done: float, total: int | None = None, description: str | None = None) -> None:
        """Show how much is done. As long as nothing is, the time does not count.

        Args:
            done: number of items, or parts of them.
            total: number of all items; None is the last one that was given.
            description: None leaves it as it is.
        """
        with self._lock:
            self._total = total or self._total
            self._show(done)
            if description is not None:
                self._bars.update(self._task, description=escape_control(description))

    def advance(self, items: float) -> None:
        """Show that further items, or parts of them, are done."""
        with self._lock:
            self._show(round(self._done + items, 6))  # parts add up to an item

    def _show(self, done: float) -> None:
        if not done:
            self.restart()
        self._largest = max(self._largest, done - self._done)
        self._done = done
        self._bars.update(self._task, completed=done, total=self._total)
        self._announce()

    def _announce(self) -> None:
        elapsed, done = self._clock() - self._started, self._done - self._first
        if self._announced or self._total is None or done <= 0 or self._done >= self._total:
            return
        left = self._total - self._first
        at_once = max(1, min(self.at_once, left))
        # As long as it is less, some have said nothing yet, or others more than they.
        if elapsed < _MEASURED or done < at_once * self._largest * (1 - 1e-6):
            return
        expected = elapsed * at_once * math.ceil(left / at_once) / done  # in the last round some have nothing to do
        if expected >= _ANNOUNCED:
            self._announced = True
            text = f"{self._name}: about {format_time(expected)} {'for the rest' if self._first else 'in all'}"
            self._bars.console.print(escape_control(text), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bars() -> Iterator[Callable[..., Callable[[int, int], None]]]:
    """Show progress bars until the context ends, and then remove them.

    Yields:
        A function that adds a bar with a description and the number of items that are worked on at once, by default 1;
        it returns the callback of the bar: number of items done, and of all items.
    """
    with make_progress(transient=True) as bars:
        yield lambda description, at_once=1: Bar(bars, description, at_once=at_once).update


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield items while a progress bar counts them.

    Args:
        items: the items.
        total: number of items.
        description: text before the bar.
    """
    with make_progress() as bars:
        bar = Bar(bars, description, total)
        for item in items:
            yield item
            bar.advance(1)


def format_time(seconds: float) -> str:
    """Format in hours; below 0.1 h in minutes; below 0.1 min in seconds."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length / 10:
            return f"{seconds / length:,.2f} {unit}"
    return f"{seconds:.2g} s"


def describe_shares(costs: Mapping[str, float]) -> str:
    """Return the names of the parts that cost anything with their shares in percent, the largest first."""
    total = sum(costs.values())
    ordered = sorted(costs.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * cost / total:.0f} %" for name, cost in ordered if cost)
