"""Units over Ray actors, one to a GPU, or one to a core where there is no GPU.

Nothing large goes through Ray: an actor gets a number and gives back a commit record. Actors are not
restarted by Ray; the pool replaces them, so that a death is one event with one owner.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from pipeline.run.dispatch import Assignment, Dispatcher
from pipeline.run.outcome import Done, Outcome, SetAside
from pipeline.run.worker import Worker
from schemas.errors import AtlasError, BadTar, RunFailed

_PATIENCE = 600.0
"""Seconds in which the first actor must have a place in the cluster and its model loaded."""
_DEATHS = 3
"""Actors that may die in a row without having done anything."""


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """A connection to Ray: an existing cluster, or one that is started here and stopped at the end.

    Args:
        address: ``local`` starts one; ``auto`` or HOST:PORT joins one; None joins what the environment
            names (RAY_ADDRESS), else starts one.
    """
    joined = ray.is_initialized()
    if not joined:
        _reach(address or os.environ.get("RAY_ADDRESS", ""))
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise RunFailed(f"no Ray cluster at {address!r} ({error}); start one, or say --address local") from None
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
        raise RunFailed(f"no Ray cluster at {address} ({error}); start one, or say --address local") from None


def capacity() -> tuple[int, bool]:
    """Actors that the cluster has room for, and whether each gets a GPU."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    return (gpus, True) if gpus else (max(1, int(resources.get("CPU", 1))), False)


def pool(url: str, units: Sequence[int], actors: int | None, decode_processes: int | None) -> Iterator[Outcome]:
    """Do the units of an atlas on as many actors as there is room for, in whatever order they come.

    Args:
        actors: at most so many; None is one to a GPU or core.
        decode_processes: of each actor; None is a thread for a CPU actor and four processes for a GPU.

    Raises:
        RunFailed: no actor could be started.
    """
    room, on_gpu = capacity()
    wanted = min(actors or room, len(units))
    decode = decode_processes if decode_processes is not None else 4 * on_gpu
    with _Pool(url, decode, on_gpu) as crew:
        yield from crew.work(Dispatcher(units), wanted)


class _Pool:
    """The actors, and what each was asked."""

    def __init__(self, url: str, decode_processes: int, on_gpu: bool) -> None:
        options: dict[str, Any] = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
        self._new = ray.remote(max_restarts=0, max_task_retries=0, **options)(_Actor)
        self._arguments = url, decode_processes
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, tuple[int, Assignment | None]] = {}
        self._deaths = 0
        self._hired = 0

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors.values():
            ray.kill(actor)

    def work(self, dispatcher: Dispatcher, wanted: int) -> Iterator[Outcome]:
        for _ in range(wanted):
            self._hire()
        while not dispatcher.finished:
            while assignment := dispatcher.next():
                reply = self._actors[assignment.actor].process.remote(assignment.unit, assignment.attempt)
                self._asked[reply] = assignment.actor, assignment
            ready, _ = ray.wait(list(self._asked), timeout=_PATIENCE if not dispatcher.done else None)
            if not ready and not dispatcher.done:
                raise RunFailed(
                    f"no actor got a place and did a tar within {_PATIENCE:.0f} s; see what the cluster has free"
                )
            for reply in ready:
                if reply in self._asked:  # an actor's death takes its other replies with it
                    yield from self._settle(reply, dispatcher)

    def _hire(self) -> None:
        name, self._hired = self._hired, self._hired + 1
        self._actors[name] = self._new.remote()
        self._asked[self._actors[name].prepare.remote(*self._arguments)] = name, None

    def _settle(self, reply: Any, dispatcher: Dispatcher) -> Iterator[Outcome]:
        """Take an answer, or the news of a death."""
        name, assignment = self._asked.pop(reply)
        try:
            answer = ray.get(reply)
        except RayActorError as death:
            yield from self._bury(name, str(death).strip().split("\n")[0], dispatcher)
        except RayTaskError as error:
            cause = error.cause
            if assignment is None or not isinstance(cause, BadTar | OSError):
                # The same would happen on every actor: a mistake in the spec, or in this program.
                raise cause if isinstance(cause, AtlasError) else error from None
            final = isinstance(cause, BadTar)
            dispatcher.fail(name, assignment.unit, f"{cause}", final)
            if assignment.unit in dispatcher.set_aside:
                yield SetAside(assignment.unit, dispatcher.set_aside[assignment.unit])
        else:
            self._deaths = 0
            if assignment is None:
                dispatcher.join(name)
            else:
                dispatcher.finish(name, assignment.unit)
                yield Done(answer)

    def _bury(self, name: int, reason: str, dispatcher: Dispatcher) -> Iterator[Outcome]:
        """An actor is dead: give back what it had, and hire another."""
        before = set(dispatcher.set_aside)
        dispatcher.leave(name, reason)
        for unit in dispatcher.set_aside.keys() - before:
            yield SetAside(unit, dispatcher.set_aside[unit])
        del self._actors[name]
        self._asked = {reply: asked for reply, asked in self._asked.items() if asked[0] != name}
        self._deaths += 1
        if self._deaths >= _DEATHS and not self._actors:
            raise RunFailed(f"{self._deaths} actors in a row died before they had done anything: {reason}")
        if not dispatcher.finished:
            self._hire()


class _Actor:
    """A worker behind Ray. It loads in ``prepare``, so that what goes wrong there comes back as it is."""

    def prepare(self, url: str, decode_processes: int) -> None:
        self._worker = Worker(url, decode_processes)

    def process(self, unit: int, attempt: int) -> Any:
        return self._worker.process(unit, attempt)
