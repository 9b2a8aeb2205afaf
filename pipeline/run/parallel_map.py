"""The same function over many shards: on the cores of this machine, or on a Ray cluster where there are many."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.utils.process_pool import make_process_pool
from schemas.errors import RunFailedError

T = TypeVar("T")
R = TypeVar("R")

MANY = 64
"""Items for which Ray is worth its start."""


def parallel_map(
    function: Callable[[T], R],
    items: Sequence[T],
    what: str,
    address: str | None = None,
    gpu: bool = False,
    module: str | None = None,
) -> Iterator[R]:
    """Results, in whatever order they come.

    Args:
        function: picklable, safe to be done twice; its own process does not share state with this one.
        what: is being done, for the bar.
        address: of a Ray cluster, as ``vitatlas run`` has it. None: this machine's cores for few items, Ray for many.
        gpu: take a GPU for each, where the cluster has any.
        module: that new processes import first; None is that of the function.

    Raises:
        RunFailedError: a process died; the results so far have been given.
    """
    if address is None and len(items) <= MANY:
        results = _here(function, items, module)
    else:
        from pipeline.run.ray_tasks import ray_map  # Ray is needed only here

        results = ray_map(function, items, address, gpu)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield from progress.track(results, len(items), description=what)


def _here(function: Callable[[T], R], items: Sequence[T], module: str | None) -> Iterator[R]:
    processes = min(len(items), os.cpu_count() or 1)
    if processes <= 1:
        yield from map(function, items)
        return
    waiting = iter(items)
    work = function.func if isinstance(function, partial) else function
    with make_process_pool(processes, module or work.__module__) as pool:
        try:
            under_way = {pool.submit(function, item) for item in islice(waiting, processes)}
            while under_way:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                under_way |= {pool.submit(function, item) for item in islice(waiting, len(done))}
        except BrokenProcessPool as error:
            raise RunFailedError(
                "a process was killed, perhaps for want of memory; the same command goes on"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
