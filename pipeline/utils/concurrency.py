"""Ordered concurrent map over threads, for calls that wait for a store."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_PENDING = 32
"""Largest number of calls in progress or waiting to be consumed, and so of results in memory."""


def concurrent_map(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield the results of concurrent calls, in the order of the items.

    Args:
        function: function to call; it must be thread-safe.
        items: its arguments.

    Raises:
        Exception: that of the first failed call, at its turn; no further call is started.
    """
    pool = ThreadPoolExecutor(MAX_PENDING)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            if len(pending) == MAX_PENDING:
                yield pending.popleft().result()
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
