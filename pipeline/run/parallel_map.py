"""Parallel map over shards: in processes of this machine, or on a Ray cluster if there are many."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import TypeVar

from pipeline.utils.process_pool import ProcessPool
from pipeline.utils.progress import Bar, make_progress
from pipeline.utils.shares import report_share, set_listener, take_sent_shares
from schemas.errors import RunFailedError

T = TypeVar("T")
R = TypeVar("R")

MIN_ITEMS_FOR_RAY = 65
"""Number of items for which Ray is worth its start."""


def parallel_map(
    function: Callable[[T], R],
    items: Sequence[T],
    description: str,
    address: str | None = None,
    gpu: bool = False,
    module: str | None = None,
) -> Iterator[R]:
    """Yield the result of each item, in any order, and show a progress bar.

    Args:
        function: picklable and idempotent; it runs in another process.
        items: arguments of the calls.
        description: of the work, for the progress bar.
        address: of a Ray cluster, as in ``vitatlas run``. None: processes of this machine for few items, Ray for many.
        gpu: reserve a GPU for each call, if the cluster has any.
        module: that new processes import first; None is that of the function.

    Raises:
        RunFailedError: a process died; the results before it have been yielded.
    """
    call = partial(_call_with_shares, function)
    with make_progress() as bars:
        if address is None and len(items) < MIN_ITEMS_FOR_RAY:
            processes = min(len(items), os.cpu_count() or 1)
            bar = Bar(bars, description, len(items), processes)
            results = _map_in_processes(call, items, processes, module or _module_of(function), bar.advance)
        else:
            from pipeline.run.ray_tasks import ray_map  # Ray is imported only if it is used

            bar = Bar(bars, description, len(items))
            results = ray_map(call, items, address, gpu, partial(setattr, bar, "at_once"))
        for result, shown in results:
            bar.advance(1 - shown)
            yield result


def _call_with_shares(function: Callable[[T], R], item: T) -> tuple[R, float]:
    """Return the result of an item, and the share of it that has been reported to the bar."""
    take_sent_shares()
    report_share(0)  # the process has started
    return function(item), take_sent_shares()


def _module_of(function: Callable[[T], R]) -> str:
    return (function.func if isinstance(function, partial) else function).__module__


def _map_in_processes(
    function: Callable[[T], R], items: Sequence[T], processes: int, module: str, on_share: Callable[[float], None]
) -> Iterator[R]:
    if processes <= 1:
        set_listener(on_share)
        try:
            yield from map(function, items)
        finally:
            set_listener(None)
        return
    remaining = iter(items)
    with ProcessPool(processes, module, on_share) as pool:
        try:
            pending = {pool.submit(function, item) for item in islice(remaining, processes)}
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                pending |= {pool.submit(function, item) for item in islice(remaining, len(done))}
        except BrokenProcessPool as error:
            raise RunFailedError(
                "a worker process was killed (out of memory?); run the same command again to resume"
            ) from error
