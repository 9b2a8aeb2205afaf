"""Units over Ray actors, one to a GPU, or one to a core where there is no GPU.

Nothing large goes through Ray: an actor gets a number and gives back a commit record. Actors are not
restarted by Ray; the pool replaces them, so that a death is one event with one owner.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.run.dispatch import Assignment, Dispatcher
from pipeline.run.events import Committed, Event, InProgress, Message, Quarantined, Retrying
from pipeline.run.execution import Device, ExecutionOptions, check_decoding
from pipeline.run.prometheus import Metrics
from pipeline.run.signals import GracefulShutdown
from pipeline.store import Atlas
from schemas.errors import AtlasError, CorruptShardError, RunFailedError, UsageError

_TICK = 1.0
"""Seconds after which the pool looks around, whether or not an actor has answered."""
_LOOK = 5.0
"""Seconds between two looks at what the cluster has."""
_UNREADY = 3
_FRUITLESS = 10
"""Actors that may be lost in a row before one was ready, and before another shard is done; at least twice as many as
there are. It is not one shard then, nor one node: it would be the same with all."""


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """A connection to Ray: an existing cluster, or one that is started here and stopped at the end.

    Args:
        address: ``local`` starts one; ``auto`` or HOST:PORT joins one; None joins what the environment
            names (RAY_ADDRESS), else starts one.
    """
    joined = ray.is_initialized()
    if not joined:
        # Without an address Ray would also join whatever cluster was started last on this machine.
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        _reach(address)
        try:
            # Ray has its workers import what lies in the working folder, which may be anything.
            os.environ["PYTHONSAFEPATH"] = "1"
            with chdir("/"):
                ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except ValueError as error:
            raise UsageError(f"--address {address}: {error}; say local, auto or HOST:PORT") from None
        except ConnectionError as error:
            raise RunFailedError(
                f"no Ray cluster at {address!r} ({error}); start one, or say --address local"
            ) from None
    try:
        yield
    finally:
        if not joined:
            ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself tries for many minutes to reach a head that is not there."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return  # local, auto: Ray finds out at once
    try:
        socket.create_connection((host, int(port)), timeout=15).close()
    except (OSError, OverflowError) as error:
        raise RunFailedError(f"no Ray cluster at {address} ({error}); start one, or say --address local") from None


def capacity(device: Device = "auto") -> tuple[int, bool]:
    """Actors that the cluster has room for, and whether each gets a GPU."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    if device == "cuda" or (device == "auto" and gpus):
        return gpus, True
    return int(resources.get("CPU", 0)), False


def pool(
    atlas: Atlas, units: Sequence[int], crew: ExecutionOptions, retry_failed: bool, stop: GracefulShutdown
) -> Iterator[Event]:
    """Do the units of an atlas on as many actors as there is room for, in whatever order they come.

    Raises:
        RunFailedError: no actor could be started.
    """
    dispatcher, metrics = Dispatcher(units, timeout=crew.timeout), Metrics(len(units))
    with _Pool(atlas, crew, retry_failed, dispatcher) as actors:
        for outcome in actors.work(stop):
            metrics.note(outcome)
            yield outcome
        metrics.note(InProgress(()))


class _Pool:
    """The actors, and what each was asked.

    Attributes:
        actors: all that were hired and have not left, by number.
        asked: for each reply that is waited for, the actor and the unit; None is its getting ready.
    """

    def __init__(self, atlas: Atlas, crew: ExecutionOptions, retry_failed: bool, dispatcher: Dispatcher) -> None:
        self.crew, self.dispatcher = crew, dispatcher
        self._shards = [shard.name for shard in atlas.run.shards]
        self.actors: dict[int, Any] = {}
        self.asked: dict[Any, tuple[int, Assignment | None]] = {}
        self._on_gpu = capacity(crew.device)[1]
        check_decoding(atlas.run.spec.decode, crew.device, self._on_gpu)
        # Ray would give it a core as well, of which a node may have fewer than GPUs.
        options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if self._on_gpu else {"num_cpus": 1}
        self._new = ray.remote(max_restarts=0, max_task_retries=0, **options)(_Actor)
        decode = crew.decode_processes if crew.decode_processes is not None else 4 * self._on_gpu
        self._arguments = atlas.objects.url, "cuda" if self._on_gpu else "cpu", decode, retry_failed, crew
        self._wanted = self._hired = self._lost = 0
        self._in_progress: tuple[int, ...] = ()
        self._ready = self._draining = False
        self._looked = -_LOOK
        self._alone_since = time.monotonic()

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self.actors.values():
            ray.kill(actor)

    def work(self, stop: GracefulShutdown) -> Iterator[Event]:
        """Until all is done, or until what is in work is done once ``stop`` is asked for."""
        while not self.dispatcher.finished:
            if stop.asked:
                yield from self._drain()
                return
            yield from self._step()

    def _drain(self) -> Iterator[Event]:
        self.dispatcher.drain()
        self._draining = True
        busy, end = self.dispatcher.busy, time.monotonic() + self.crew.grace
        yield Message(
            f"stopping: {len(busy)} shards in work have {self.crew.grace:.0f} s; interrupt again to drop them"
        )
        for name in self.actors.keys() - set(busy):
            self._dismiss(name)
        while not self.dispatcher.finished and time.monotonic() < end:
            yield from self._step()

    def _step(self) -> Iterator[Event]:
        """Hand out what there is, and take what comes back within a moment."""
        now = time.monotonic()
        if not self._draining:
            self._staff(now)
        while assignment := self.dispatcher.next(now):
            reply = self.actors[assignment.actor].process.remote(assignment.unit, assignment.attempt)
            self.asked[reply] = assignment.actor, assignment
        if self.dispatcher.in_progress != self._in_progress:
            self._in_progress = self.dispatcher.in_progress
            yield InProgress(self._in_progress)
        if not self.asked:
            time.sleep(_TICK)
            return
        for reply in ray.wait(list(self.asked), timeout=_TICK)[0]:
            if reply in self.asked:  # an actor's death takes its other replies with it
                yield from self._settle(reply)
        for name, seconds in self.dispatcher.overdue(time.monotonic()).items():
            reason = f"not done after {seconds:.0f} s, longer than it may take (see --timeout)"
            yield from self._bury(name, reason, blame=True)

    def _staff(self, now: float) -> None:
        """Hire as many as there is work and room for; of those that got no place, keep no more than that.

        Raises:
            RunFailedError: nobody has been at work for too long.
        """
        if self.dispatcher.joined:
            self._alone_since = now
        elif now - self._alone_since > self.crew.patience:
            free = ray.available_resources()
            raise RunFailedError(
                f"no actor got a place and loaded the network within {self.crew.patience:.0f} s; each needs one "
                f"{'GPU' if self._on_gpu else 'CPU'}, and of those in the cluster {free.get('GPU', 0):.0f} GPUs and "
                f"{free.get('CPU', 0):.0f} CPUs are free; wait longer with --patience, or see --device"
            )
        if now - self._looked < _LOOK:
            return
        self._looked = now
        room = capacity(self.crew.device)[0]
        # One, even where there is no room for it: an autoscaler acts on what waits for a place.
        self._wanted = min(self.crew.actors or max(room, 1), self.dispatcher.left)
        while len(self.actors) < self._wanted:
            self._hire()
        waiting = [name for name, assignment in self.asked.values() if assignment is None]
        for name in sorted(waiting, reverse=True)[: max(0, len(self.actors) - self._wanted)]:
            self._dismiss(name)

    def _hire(self) -> None:
        name, self._hired = self._hired, self._hired + 1
        self.actors[name] = self._new.remote()
        self.asked[self.actors[name].prepare.remote(*self._arguments)] = name, None

    def _settle(self, reply: Any) -> Iterator[Event]:
        """Take an answer, or the news of a death."""
        name, assignment = self.asked.pop(reply)
        try:
            answer = ray.get(reply)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, AtlasError) and not isinstance(cause, CorruptShardError):
                raise cause from None  # what would be said of every shard: a mistake in the spec, a full disk
            if assignment is None or not isinstance(cause, CorruptShardError | OSError):
                # Of whatever else an actor may not recover, as of an error of its GPU.
                yield from self._bury(name, f"{type(cause).__name__}: {cause}", blame=True)
                return
            unit, final = assignment.unit, isinstance(cause, CorruptShardError)
            self.dispatcher.fail(name, unit, f"{cause}", final, time.monotonic())
            yield self._failed(unit, assignment.attempt, f"{cause}")
            self._let_go(name)
        except RayError as death:
            node = getattr(death, "preempted", False) or "node has died" in str(death)
            yield from self._bury(name, _last_line(death), blame=not node)
        else:
            if assignment is None:
                self._ready = True
                self.dispatcher.join(name, time.monotonic(), answer)
            else:
                self._lost = 0
                self.dispatcher.finish(name, assignment.unit, time.monotonic())
                yield Committed(answer)
                self._let_go(name)

    def _let_go(self, name: int) -> None:
        """In a run that stops, an actor that has answered does not go on with what it finds next."""
        if self._draining:
            self._dismiss(name)

    def _bury(self, name: int, reason: str, blame: bool) -> Iterator[Event]:
        """An actor is lost: give back what it had. ``_staff`` hires another."""
        unit = self.dispatcher.working_on(name)
        attempt = 0 if unit is None else self.dispatcher.attempt(unit)
        self._dismiss(name, reason, blame)
        where = "" if unit is None else f" over {self._shards[unit]}"
        yield Message(f"an actor was lost{where}: {reason}")
        if unit is not None:
            yield self._failed(unit, attempt, reason)
        self._lost += blame
        if self._lost >= max(_FRUITLESS if self._ready else _UNREADY, 2 * self._wanted):
            raise RunFailedError(f"{self._lost} actors in a row were lost before a shard was done; the last: {reason}")
        self._looked = -_LOOK

    def _failed(self, unit: int, attempt: int, reason: str) -> Event:
        """What becomes of a shard that was not done."""
        if unit in self.dispatcher.quarantined:
            return Quarantined(unit, attempt, self.dispatcher.quarantined[unit])
        return Retrying(unit, attempt, reason)

    def _dismiss(self, name: int, reason: str = "", blame: bool = False) -> None:
        """An actor is not needed any more, or no longer there."""
        self.dispatcher.leave(name, reason, blame)
        ray.kill(self.actors.pop(name))
        self.asked = {reply: asked for reply, asked in self.asked.items() if asked[0] != name}


def _last_line(death: Exception) -> str:
    """Ray's own words for why, without the address of the actor."""
    return str(death).strip().splitlines()[-1].strip()


class _Actor:
    """A worker behind Ray. It loads in ``prepare``, so that what goes wrong there comes back as it is."""

    def prepare(
        self, url: str, device: Device, decode_processes: int, retry_failed: bool, crew: ExecutionOptions
    ) -> list[int]:
        """Load, and say which units' shards have copies on this node."""
        from pipeline.run.worker import Worker  # torch is not needed where actors are only directed

        cache = crew.make_cache()
        self._worker = Worker(url, device, decode_processes, retry_failed, cache=cache)
        return cache.cached_indices([shard.url for shard in self._worker.run.shards]) if cache else []

    def process(self, unit: int, attempt: int) -> Any:
        return self._worker.process(unit, attempt)
