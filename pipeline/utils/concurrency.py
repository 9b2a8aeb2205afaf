"""Many things that each wait for a store: a bucket answers them side by side."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 32
"""That are under way, or wait to be taken: so many results are in memory, at most."""


def concurrent_map(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results in order. What a call raises is raised in its turn, and no other is begun after that."""
    pool = ThreadPoolExecutor(AT_ONCE)
    ahead: deque[Future[R]] = deque()
    try:
        for item in items:
            if len(ahead) == AT_ONCE:
                yield ahead.popleft().result()
            ahead.append(pool.submit(function, item))
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
