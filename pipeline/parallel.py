"""The same function over many tars, on the cores of this machine, with a progress bar."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")
R = TypeVar("R")


def over(function: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
    """Results in the order of the items.

    Args:
        function: picklable; its own process does not share state with this one.
        what: is being done, for the bar.
    """
    console = Console(stderr=True)
    processes = min(len(items), os.cpu_count() or 1)
    if processes <= 1:
        results: Iterator[R] = map(function, items)
        yield from _shown(results, len(items), what, console)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from _shown(pool.map(function, items), len(items), what, console)


def _shown(results: Iterator[R], total: int, what: str, console: Console) -> Iterator[R]:
    return iter(track(results, what, total, console=console, disable=not console.is_terminal))
