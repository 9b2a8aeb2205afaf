"""Progress bars on standard error, if it is a terminal."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.utils.console import SafeConsole
from schemas.text import escape_control

T = TypeVar("T")


def make_progress(transient: bool = False) -> Progress:
    """Return a display of bars with a description, the number of items done, and the time.

    Args:
        transient: remove the bars at the end.
    """
    console = SafeConsole(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    return Progress(*columns, *times, console=console, transient=transient, disable=not console.is_terminal)


@contextmanager
def progress_bars() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Show progress bars until the context ends, and then remove them.

    Yields:
        A function that adds a bar with a description, and returns its callback: number of items done, and of all items.
    """
    with make_progress(transient=True) as bars:

        def add_bar(description: str) -> Callable[[int, int], None]:
            task = bars.add_task(escape_control(description), total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield add_bar


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield items while a progress bar counts them.

    Args:
        items: the items.
        total: number of items.
        description: text before the bar.
    """
    with make_progress() as bar:
        yield from bar.track(items, total, description=escape_control(description))
