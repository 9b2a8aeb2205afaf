"""A function over items as Ray tasks."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.run.ray_executor import capacity, cluster
from schemas.errors import RunFailedError

T = TypeVar("T")
R = TypeVar("R")

_TRIES = 3
"""Times that a task whose process or node dies is given to another."""


def ray_map(function: Callable[[T], R], items: Sequence[T], address: str | None, gpu: bool) -> Iterator[R]:
    """Results in whatever order they come. Arguments: see ``spread``."""
    with cluster(address):
        places, on_gpu = capacity("auto" if gpu else "cpu")
        options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if on_gpu else {"num_cpus": 1}
        apply: Any = ray.remote(max_retries=_TRIES, **options)(_apply)
        shared, waiting = ray.put(function), iter(items)
        under_way = [apply.remote(shared, item) for item in islice(waiting, 2 * max(1, places))]
        while under_way:
            done, under_way = ray.wait(under_way)
            under_way += [apply.remote(shared, item) for item in islice(waiting, len(done))]
            for each in done:
                yield _result(each)


def _apply(function: Callable[[T], R], item: T) -> R:
    return function(item)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None
    except RayError as error:
        raise RunFailedError(f"a task was lost {_TRIES + 1} times ({str(error).splitlines()[0]})") from error
