"""How a run stands, from the files of its atlas alone: from any machine that can read them.

Times are those of the commits and of the lease, so the clock of whoever looks is not asked; those of a cluster are
taken to agree within seconds.
"""

import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from pipeline.store import Atlas
from pipeline.store.lease import TIMEOUT
from schemas.commits import CommitRecord, LeaseRecord
from schemas.errors import UsageError
from schemas.layout import LEASE
from schemas.samples import SampleStatus

_RECENT = 64
"""Shards whose speed is the speed now."""
_IDLE = ("read", "decode", "collect", "write")
"""Stages of an actor in which its network waits; on a GPU as long as nothing was left for it to do."""


class ShardProgress(NamedTuple):
    """What is kept of a commit. There may be very many.

    Attributes:
        begun, finished: in seconds since 1970, of the clock of its host.
        idle, total: seconds of the actor.
    """

    begun: float
    finished: float
    rows: int
    statuses: dict[str, int]
    idle: float
    total: float

    @classmethod
    def of(cls, commit: CommitRecord) -> "ShardProgress":
        """The part that is kept."""
        idle = sum(commit.seconds.get(stage, 0.0) for stage in _IDLE)
        finished = datetime.fromisoformat(commit.finished).timestamp()
        total = commit.seconds.get("total", 0.0)
        return cls(finished - total, finished, commit.rows, commit.statuses, idle, total)


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment.

    Attributes:
        shards, done: planned, and committed.
        in_progress: names of those that are being done, a few seconds ago.
        aside: how many shards could not be done, by the reason.
        images, images_done: planned, and in committed shards.
        failed: images that have no maps, by their status.
        rate: images a second of the latest shards; None while no run is at work or none of its shards is done.
        left: seconds until its end at this rate.
        idle: share of the actors' time in which their networks waited for pictures and for writing.
        alive: a run is at work. One that has just died is taken for alive for half a minute.
    """

    shards: int
    done: int
    in_progress: tuple[str, ...]
    aside: dict[str, int]
    images: int
    images_done: int
    failed: dict[str, int]
    rate: float | None
    left: float | None
    idle: float | None
    alive: bool

    @property
    def begun(self) -> bool:
        """A run is at work, or there is something that one left."""
        return self.alive or bool(self.done or self.aside)

    @property
    def complete(self) -> bool:
        """Every shard is done."""
        return self.done == self.shards

    @property
    def over(self) -> bool:
        """Nothing more will come of itself: all is done; or all but what was quarantined, and nobody is at work."""
        return self.complete or (not self.alive and self.done + sum(self.aside.values()) >= self.shards)


class StatusReader:
    """Looks at an atlas again and again. Each commit is read once.

    Raises:
        UsageError: there is no atlas.
    """

    def __init__(self, url: str) -> None:
        self._atlas = Atlas.open(url)
        self._units: dict[str, ShardProgress] = {}
        self._heard: tuple[LeaseRecord | None, float] = None, 0.0

    def look(self) -> RunStatus:
        """How the run stands now.

        Raises:
            RunFailedError: a commit is damaged; the message names it.
            OSError: the store cannot be reached.
        """
        run = self._atlas.run
        atlas = Atlas(self._atlas.objects, run)  # which lists anew
        for shard_name in self._units.keys() - atlas.committed:  # being done again
            del self._units[shard_name]
        with suppress(FileNotFoundError):  # a commit that was listed is being done again; the next look has the rest
            for commit in atlas.records(but=self._units):
                self._units[commit.shard] = ShardProgress.of(commit)
        lease, alive = self._lease()
        since = datetime.fromisoformat(lease.since).timestamp() if lease and alive else None
        aside = {
            shard_name: reason for shard_name, reason in atlas.quarantined().items() if shard_name not in self._units
        }
        urls = {shard.name: shard.url for shard in run.shards if shard.name in aside}
        reasons = Counter(reason.removeprefix(f"{urls[shard_name]}: ") for shard_name, reason in aside.items())
        statuses: Counter[str] = Counter()
        for unit in self._units.values():
            statuses.update(unit.statuses)
        of_this_run = [unit for unit in self._units.values() if since is not None and unit.finished >= since]
        rate = speed(of_this_run)
        waiting = sum(s.samples for s in run.shards if s.name not in self._units and s.name not in aside)
        return RunStatus(
            shards=len(run.shards),
            done=len(self._units),
            in_progress=lease.in_progress if lease and alive else (),
            aside=dict(reasons.most_common()),
            images=run.samples,
            images_done=sum(unit.rows for unit in self._units.values()),
            failed={status: count for status, count in sorted(statuses.items()) if status != SampleStatus.OK},
            rate=rate,
            left=waiting / rate if rate else None,
            idle=idle(of_this_run or self._units.values()),
            alive=alive,
        )

    def _lease(self) -> tuple[LeaseRecord | None, bool]:
        """Who is at work, and whether that has been heard of within half a minute of this machine's clock."""
        lease: LeaseRecord | None
        try:
            lease = LeaseRecord.read(self._atlas.objects.get(LEASE), LEASE)
        except FileNotFoundError:
            return None, False
        except UsageError:  # torn, or being written
            lease = self._heard[0]
        now = time.monotonic()
        if lease != self._heard[0] or lease is None:
            self._heard = lease, now
        return lease, now - self._heard[1] < TIMEOUT


def speed(units: Collection[ShardProgress]) -> float | None:
    """Images a second of the latest shards of a run, without its start-up; None where none is done."""
    latest = sorted(units, key=lambda unit: unit.finished)[-_RECENT - 1 :]
    if not latest:
        return None
    begun = latest.pop(0).finished if len(latest) > _RECENT else min(unit.begun for unit in latest)
    return sum(unit.rows for unit in latest) / max(1.0, latest[-1].finished - begun)


def idle(units: Collection[ShardProgress]) -> float | None:
    """Share of the actors' time, in [0, 1], in which their networks waited; None where no shard is done."""
    total = sum(unit.total for unit in units)
    return sum(unit.idle for unit in units) / total if total else None
