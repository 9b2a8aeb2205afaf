"""Status of a run, read from the files of its atlas on any machine.

Times are those of the commits and of the lease, not of the local clock; the clocks of a cluster must agree within
seconds.
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

_RECENT_SHARDS = 64
"""Shards that the current rate is computed from."""
_IDLE_STAGES = ("read", "decode", "collect", "write")
"""Stages of an actor in which its network waits; on a GPU their time counts only while the GPU had nothing to do."""


class ShardProgress(NamedTuple):
    """The part of a commit that is kept in memory, as there may be very many.

    Attributes:
        started, finished: in seconds since 1970, of the clock of its host.
        rows: samples.
        statuses: samples by status.
        idle, total: seconds of the actor.
    """

    started: float
    finished: float
    rows: int
    statuses: dict[str, int]
    idle: float
    total: float

    @classmethod
    def from_commit(cls, commit: CommitRecord) -> "ShardProgress":
        """Return the progress of a committed shard."""
        idle = sum(commit.seconds.get(stage, 0.0) for stage in _IDLE_STAGES)
        finished = datetime.fromisoformat(commit.finished).timestamp()
        total = commit.seconds.get("total", 0.0)
        return cls(finished - total, finished, commit.rows, commit.statuses, idle, total)


@dataclass(frozen=True)
class RunStatus:
    """Status of a run at one moment.

    Attributes:
        shards, done: planned, and committed.
        in_progress: names of the shards in progress, a few seconds ago.
        quarantined: number of shards that could not be done, by reason.
        images, images_done: planned, and in committed shards.
        failed: images without maps, by status.
        rate: images per second of the latest shards; None if no run is active or none of its shards is done.
        seconds_left: until the end at this rate.
        idle: share of the actors' time in which their networks waited for images and for writing.
        active: a run holds the lease. One that died counts as active for half a minute.
    """

    shards: int
    done: int
    in_progress: tuple[str, ...]
    quarantined: dict[str, int]
    images: int
    images_done: int
    failed: dict[str, int]
    rate: float | None
    seconds_left: float | None
    idle: float | None
    active: bool

    @property
    def started(self) -> bool:
        """A run is active, or one has left results."""
        return self.active or bool(self.done or self.quarantined)

    @property
    def complete(self) -> bool:
        """Every shard is done."""
        return self.done == self.shards

    @property
    def ended(self) -> bool:
        """No more results will come: all shards are done, or all others are quarantined and no run is active."""
        return self.complete or (not self.active and self.done + sum(self.quarantined.values()) >= self.shards)


class StatusReader:
    """Reader of the status of an atlas over time. Each commit is read once.

    Raises:
        UsageError: there is no atlas.
    """

    def __init__(self, url: str) -> None:
        self._atlas = Atlas.open(url)
        self._progress: dict[str, ShardProgress] = {}
        self._last_lease: tuple[LeaseRecord | None, float] = None, 0.0

    def read(self) -> RunStatus:
        """Return the current status.

        Raises:
            RunFailedError: a commit is damaged; the message names it.
            OSError: the store cannot be reached.
        """
        run = self._atlas.run
        atlas = Atlas(self._atlas.objects, run)  # lists the commits again
        for name in self._progress.keys() - atlas.committed:  # is being done again
            del self._progress[name]
        with suppress(FileNotFoundError):  # a listed commit is being done again; the next call reads the rest
            for commit in atlas.records(skip=self._progress):
                self._progress[commit.shard] = ShardProgress.from_commit(commit)
        lease, active = self._read_lease()
        since = datetime.fromisoformat(lease.since).timestamp() if lease and active else None
        quarantined = {name: reason for name, reason in atlas.quarantined().items() if name not in self._progress}
        urls = {shard.name: shard.url for shard in run.shards if shard.name in quarantined}
        reasons = Counter(reason.removeprefix(f"{urls[name]}: ") for name, reason in quarantined.items())
        statuses: Counter[str] = Counter()
        for shard in self._progress.values():
            statuses.update(shard.statuses)
        of_this_run = [shard for shard in self._progress.values() if since is not None and shard.finished >= since]
        rate = images_per_second(of_this_run)
        pending = [shard for shard in run.shards if shard.name not in self._progress and shard.name not in quarantined]
        return RunStatus(
            shards=len(run.shards),
            done=len(self._progress),
            in_progress=lease.in_progress if lease and active else (),
            quarantined=dict(reasons.most_common()),
            images=run.samples,
            images_done=sum(shard.rows for shard in self._progress.values()),
            failed={status: count for status, count in sorted(statuses.items()) if status != SampleStatus.OK},
            rate=rate,
            seconds_left=sum(shard.samples for shard in pending) / rate if rate else None,
            idle=idle_share(of_this_run or self._progress.values()),
            active=active,
        )

    def _read_lease(self) -> tuple[LeaseRecord | None, bool]:
        """Return the lease, and whether it has changed within half a minute of the local clock."""
        lease: LeaseRecord | None
        try:
            lease = LeaseRecord.read(self._atlas.objects.get(LEASE), LEASE)
        except FileNotFoundError:
            return None, False
        except UsageError:  # incomplete, or being written
            lease = self._last_lease[0]
        now = time.monotonic()
        if lease != self._last_lease[0] or lease is None:
            self._last_lease = lease, now
        return lease, now - self._last_lease[1] < TIMEOUT


def images_per_second(shards: Collection[ShardProgress]) -> float | None:
    """Return the rate of the latest shards of a run, without its start-up; None if no shard is done."""
    latest = sorted(shards, key=lambda shard: shard.finished)[-_RECENT_SHARDS - 1 :]
    if not latest:
        return None
    started = latest.pop(0).finished if len(latest) > _RECENT_SHARDS else min(shard.started for shard in latest)
    return sum(shard.rows for shard in latest) / max(1.0, latest[-1].finished - started)


def idle_share(shards: Collection[ShardProgress]) -> float | None:
    """Return the share, in [0, 1], of the actors' time in which their networks waited; None if no shard is done."""
    total = sum(shard.total for shard in shards)
    return sum(shard.idle for shard in shards) / total if total else None
