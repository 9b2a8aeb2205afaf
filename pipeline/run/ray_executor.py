"""Executor that processes shards on Ray actors, one for each GPU, or for each core if there is no GPU.

Nothing large goes through Ray: an actor gets a number and returns a commit record. Ray does not restart actors; the
pool replaces them, so that a death is handled in one place.
"""

import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.run.dispatch import Assignment, Dispatcher
from pipeline.run.events import Event, LogMessage, ShardCommitted, ShardsInProgress, failed_attempt
from pipeline.run.execution import Device, ExecutionOptions, check_decode_device
from pipeline.run.prometheus import PrometheusMetrics
from pipeline.run.signals import GracefulShutdown
from pipeline.store import Atlas, Lease
from schemas.errors import AtlasError, CorruptShardError, RunFailedError, UsageError

_POLL_INTERVAL = 1.0
"""Seconds that the pool waits for results at a time."""
_SCALE_INTERVAL = 5.0
"""Seconds between two looks at the resources of the cluster."""
_MAX_LOSSES_BEFORE_READY = 3
_MAX_LOSSES = 10
"""Consecutive losses of actors after which the run fails: before one was ready, and before another shard is done; at
least twice the number of actors. The cause is then not one shard or node: every actor would be lost."""


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one and stop it at the end.

    Args:
        address: ``local`` starts one; ``auto`` or HOST:PORT joins one; None joins the one in the environment variable
            RAY_ADDRESS, else starts one.

    Raises:
        UsageError: the address is invalid, or the folder of temporary files has too long a name.
        RunFailedError: there is no cluster at the address.
    """
    was_connected = ray.is_initialized()
    if not was_connected:
        # Without an address Ray would also join any cluster that was started on this machine.
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        _check_reachable(address)
        try:
            # Ray's workers import modules from the working folder, which may hold anything.
            os.environ["PYTHONSAFEPATH"] = "1"
            with chdir("/"):
                ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except ValueError as error:
            raise UsageError(f"--address {address}: {error}; use local, auto or HOST:PORT") from None
        except ConnectionError as error:
            raise RunFailedError(
                f"no Ray cluster at {address!r} ({error}); start one, or use --address local"
            ) from None
        except OSError as error:
            if "AF_UNIX" not in str(error):
                raise
            raise UsageError(
                f"{tempfile.gettempdir()}: this folder of temporary files has too long a name for the sockets of Ray; "
                "set TMPDIR (or RAY_TMPDIR) to a shorter one, such as /tmp"
            ) from None
    try:
        yield
    finally:
        if not was_connected:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Fail within seconds if nothing listens at the address; Ray would try for many minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return  # local, auto: Ray finds out at once
    try:
        socket.create_connection((host, int(port)), timeout=15).close()
    except (OSError, OverflowError) as error:
        raise RunFailedError(f"no Ray cluster at {address} ({error}); start one, or use --address local") from None


def cluster_capacity(device: Device = "auto") -> tuple[int, bool]:
    """Return the number of actors that the cluster has room for, and whether each gets a GPU."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    if device == "cuda" or (device == "auto" and gpus):
        return gpus, True
    return int(resources.get("CPU", 0)), False


def run_on_ray(
    atlas: Atlas,
    shards: Sequence[int],
    options: ExecutionOptions,
    retry_failed: bool,
    shutdown: GracefulShutdown,
    lease: Lease,
) -> Iterator[Event]:
    """Process shards on as many actors as there is room for, in any order.

    Args:
        atlas: planned.
        shards: indices of the pending shards.
        options: of the execution.
        retry_failed: in finished shards, process the samples without maps again.
        shutdown: drains the actors when it is requested.
        lease: of the run; the actors are stopped once it is lost.

    Raises:
        RunFailedError: no actor could be started, too many were lost, or the lease was lost.
    """
    dispatcher, metrics = Dispatcher(shards, timeout=options.timeout), PrometheusMetrics(len(shards))
    with _ActorPool(atlas, options, retry_failed, dispatcher, lease) as pool:
        for event in pool.run(shutdown):
            metrics.record(event)
            yield event
        metrics.record(ShardsInProgress(()))


class _ActorPool:
    """Ray actors and their pending calls.

    Attributes:
        actors: handles of all actors that were started and not stopped, by number.
        calls: actor and assignment of each pending call; the assignment of ``prepare`` is None.
    """

    def __init__(
        self, atlas: Atlas, options: ExecutionOptions, retry_failed: bool, dispatcher: Dispatcher, lease: Lease
    ) -> None:
        self.options, self.dispatcher, self.lease = options, dispatcher, lease
        self._shard_names = [shard.name for shard in atlas.run.shards]
        self.actors: dict[int, Any] = {}
        self.calls: dict[Any, tuple[int, Assignment | None]] = {}
        self._on_gpu = cluster_capacity(options.device)[1]
        check_decode_device(atlas.run.spec.decode, options.device, self._on_gpu)
        # num_cpus=0: Ray would reserve a core for it as well, and a node may have fewer cores than GPUs.
        resources: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if self._on_gpu else {"num_cpus": 1}
        self._actor_class = ray.remote(max_restarts=0, max_task_retries=0, **resources)(_ShardActor)
        decode_processes = options.decode_processes if options.decode_processes is not None else 4 * self._on_gpu
        device = "cuda" if self._on_gpu else "cpu"
        self._arguments = atlas.objects.url, device, decode_processes, retry_failed, lease.holder, options
        self._target_size = self._started = self._losses = 0
        self._in_progress: tuple[int, ...] = ()
        self._any_ready = self._draining = False
        self._last_scale = -_SCALE_INTERVAL
        self._no_actor_since = time.monotonic()

    def __enter__(self) -> "_ActorPool":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self.actors.values():
            ray.kill(actor)

    def run(self, shutdown: GracefulShutdown) -> Iterator[Event]:
        """Run until all shards are done, or until those in progress are, once ``shutdown`` is requested."""
        while not self.dispatcher.finished:
            if shutdown.requested:
                yield from self._drain()
                return
            yield from self._step()

    def _drain(self) -> Iterator[Event]:
        self.dispatcher.drain()
        self._draining = True
        busy, end = self.dispatcher.busy, time.monotonic() + self.options.grace
        yield LogMessage(
            f"stopping: {len(busy)} shards in progress have {self.options.grace:.0f} s; interrupt again to drop them"
        )
        for number in self.actors.keys() - set(busy):
            self._stop_actor(number)
        while not self.dispatcher.finished and time.monotonic() < end:
            yield from self._step()

    def _step(self) -> Iterator[Event]:
        """Assign pending shards, and handle the calls that finish within a moment."""
        self.lease.check()
        now = time.monotonic()
        if not self._draining:
            self._scale(now)
        while assignment := self.dispatcher.next(now):
            call = self.actors[assignment.actor].process.remote(assignment.shard_index, assignment.attempt)
            self.calls[call] = assignment.actor, assignment
        if self.dispatcher.in_progress != self._in_progress:
            self._in_progress = self.dispatcher.in_progress
            yield ShardsInProgress(self._in_progress)
        if not self.calls:
            time.sleep(_POLL_INTERVAL)
            return
        for call in ray.wait(list(self.calls), timeout=_POLL_INTERVAL)[0]:
            if call in self.calls:  # the death of an actor removes its other calls
                yield from self._handle_result(call)
        for number, seconds in self.dispatcher.overdue(time.monotonic()).items():
            reason = f"not done after {seconds:.0f} s, longer than it may take (see --timeout)"
            yield from self._on_actor_lost(number, reason, blame=True)

    def _scale(self, now: float) -> None:
        """Start as many actors as there is work and room for; stop waiting ones that are not needed.

        Raises:
            RunFailedError: there was no actor for too long.
        """
        if self.dispatcher.worker_count:
            self._no_actor_since = now
        elif now - self._no_actor_since > self.options.no_actor_timeout:
            free = ray.available_resources()
            raise RunFailedError(
                f"no actor started and loaded the network within {self.options.no_actor_timeout:.0f} s; each needs one "
                f"{'GPU' if self._on_gpu else 'CPU'}, and of those in the cluster {free.get('GPU', 0):.0f} GPUs and "
                f"{free.get('CPU', 0):.0f} CPUs are free; wait longer with --patience, or see --device"
            )
        if now - self._last_scale < _SCALE_INTERVAL:
            return
        self._last_scale = now
        capacity = cluster_capacity(self.options.device)[0]
        # At least one, even without room for it: an autoscaler reacts to actors that wait for resources.
        self._target_size = min(self.options.actors or max(capacity, 1), self.dispatcher.left)
        while len(self.actors) < self._target_size:
            self._start_actor()
        waiting = [number for number, assignment in self.calls.values() if assignment is None]
        for number in sorted(waiting, reverse=True)[: max(0, len(self.actors) - self._target_size)]:
            self._stop_actor(number)

    def _start_actor(self) -> None:
        number, self._started = self._started, self._started + 1
        self.actors[number] = self._actor_class.remote()
        self.calls[self.actors[number].prepare.remote(*self._arguments)] = number, None

    def _handle_result(self, call: Any) -> Iterator[Event]:
        """Handle the result of a call, or the death of its actor."""
        number, assignment = self.calls.pop(call)
        try:
            result = ray.get(call)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, AtlasError) and not isinstance(cause, CorruptShardError):
                raise cause from None  # concerns every shard: a mistake in the spec, a full disk
            if assignment is None or not isinstance(cause, CorruptShardError | OSError):
                # An actor may not recover from other errors, such as one of its GPU.
                yield from self._on_actor_lost(number, f"{type(cause).__name__}: {cause}", blame=True)
                return
            shard_index, final = assignment.shard_index, isinstance(cause, CorruptShardError)
            self.dispatcher.fail(number, shard_index, f"{cause}", final, time.monotonic())
            yield failed_attempt(shard_index, assignment.attempt, f"{cause}", self.dispatcher.quarantined)
            self._stop_if_draining(number)
        except RayError as error:
            node_died = getattr(error, "preempted", False) or "node has died" in str(error)
            yield from self._on_actor_lost(number, _last_line(error), blame=not node_died)
        else:
            if assignment is None:
                self._any_ready = True
                self.dispatcher.add_worker(number, time.monotonic(), result)
            else:
                self._losses = 0
                self.dispatcher.finish(number, assignment.shard_index, time.monotonic())
                yield ShardCommitted(result)
                self._stop_if_draining(number)

    def _stop_if_draining(self, number: int) -> None:
        """Keep an actor that has finished a shard from starting its next one while the run stops."""
        if self._draining:
            self._stop_actor(number)

    def _on_actor_lost(self, number: int, reason: str, blame: bool) -> Iterator[Event]:
        """Return the shards of a lost actor to the dispatcher; ``_scale`` starts another."""
        shard_index = self.dispatcher.current_shard(number)
        attempt = 0 if shard_index is None else self.dispatcher.attempt(shard_index)
        self._stop_actor(number, reason, blame)
        where = "" if shard_index is None else f" over {self._shard_names[shard_index]}"
        yield LogMessage(f"an actor was lost{where}: {reason}")
        if shard_index is not None:
            yield failed_attempt(shard_index, attempt, reason, self.dispatcher.quarantined)
        self._losses += blame
        if self._losses >= max(_MAX_LOSSES if self._any_ready else _MAX_LOSSES_BEFORE_READY, 2 * self._target_size):
            raise RunFailedError(
                f"{self._losses} actors in a row were lost before a shard was done; the last: {reason}"
            )
        self._last_scale = -_SCALE_INTERVAL

    def _stop_actor(self, number: int, reason: str = "", blame: bool = False) -> None:
        """Stop an actor that is lost or not needed, and drop its calls."""
        self.dispatcher.remove_worker(number, reason, blame)
        ray.kill(self.actors.pop(number))
        self.calls = {call: (actor, assignment) for call, (actor, assignment) in self.calls.items() if actor != number}


def _last_line(error: Exception) -> str:
    """Return Ray's reason for a death, without the address of the actor."""
    return str(error).strip().splitlines()[-1].strip()


class _ShardActor:
    """Ray actor with one worker. It loads in ``prepare``, so that an error there keeps its type."""

    def prepare(
        self,
        url: str,
        device: Device,
        decode_processes: int,
        retry_failed: bool,
        lease: str,
        options: ExecutionOptions,
    ) -> list[int]:
        """Load the worker; return the indices of the shards that this node has a copy of."""
        from pipeline.run.worker import Worker  # the driver does not need torch

        cache = options.make_cache()
        self._worker = Worker(url, device, decode_processes, retry_failed, cache=cache, lease=lease)
        return cache.cached_indices([shard.url for shard in self._worker.run.shards]) if cache else []

    def process(self, shard_index: int, attempt: int) -> Any:
        return self._worker.process(shard_index, attempt)
