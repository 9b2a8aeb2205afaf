"""``parallel_map`` on Ray tasks."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.run.ray_executor import cluster_capacity, ray_cluster
from schemas.errors import RunFailedError

T = TypeVar("T")
R = TypeVar("R")

_MAX_RETRIES = 3
"""Retries of a task whose process or node dies."""


def ray_map(
    function: Callable[[T], R], items: Sequence[T], address: str | None, gpu: bool, on_start: Callable[[int], None]
) -> Iterator[R]:
    """Yield the result of each item, in any order.

    Args:
        function: picklable and idempotent.
        items: arguments of the calls.
        address: of the cluster, as in ``ray_cluster``.
        gpu: reserve a GPU for each task, if the cluster has any.
        on_start: called with the number of tasks that run at once.

    Raises:
        RunFailedError: the process or node of a task died on every attempt.
    """
    with ray_cluster(address):
        capacity, on_gpu = cluster_capacity("auto" if gpu else "cpu")
        on_start(capacity)
        resources: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if on_gpu else {"num_cpus": 1}
        remote_call: Any = ray.remote(max_retries=_MAX_RETRIES, **resources)(_call)
        remote_function, remaining = ray.put(function), iter(items)
        pending = [remote_call.remote(remote_function, item) for item in islice(remaining, 2 * max(1, capacity))]
        while pending:
            done, pending = ray.wait(pending)
            pending += [remote_call.remote(remote_function, item) for item in islice(remaining, len(done))]
            for reference in done:
                yield _get_result(reference)


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)


def _get_result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None
    except RayError as error:
        raise RunFailedError(f"a task was lost {_MAX_RETRIES + 1} times ({str(error).splitlines()[0]})") from error
