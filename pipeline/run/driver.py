"""A planned run from where it stands to its end."""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from pipeline.run.event_log import unit_log
from pipeline.run.events import Committed, Event, InProgress, Quarantined
from pipeline.run.execution import ExecutionOptions
from pipeline.run.progress import RunProgress
from pipeline.run.signals import GracefulShutdown
from pipeline.store import Atlas, Lease
from pipeline.utils.io import refuse_commands
from schemas.commits import QuarantineRecord
from schemas.errors import RunFailedError, StoppedEarlyError, UsageError
from schemas.layout import LEASE, QUARANTINED, quarantine_object
from schemas.run import RunRecord
from schemas.samples import SampleStatus

_NAMED = 50
"""Shards that a message names; the others stand in ``vitatlas status``."""


def run(url: str, crew: ExecutionOptions | None = None, retry_failed: bool = False) -> Atlas:
    """Do every shard that has no commit yet.

    Args:
        url: of a planned atlas.
        crew: who does it; None is Ray with its defaults.
        retry_failed: do the samples again that have no maps, in shards that are done.

    Returns:
        The finished atlas.

    Raises:
        RunFailedError: some shards could not be done, which the message names; or another run is at work here.
        StoppedEarlyError: interrupted by SIGINT or SIGTERM.
    """
    crew, atlas = crew or ExecutionOptions(), Atlas.open(url)
    # An atlas may be a stranger's, and its word is not the operator's.
    refuse_commands((shard.url for shard in atlas.run.shards), crew.allow_pipe)
    if atlas.run.spec.digest() != atlas.run.spec_hash:
        raise RunFailedError(
            f"{url}: its run.json has been changed since it was planned, or another version planned it; "
            "restore it, or plan another atlas"
        )
    # Also where a dead run left things behind.
    if _pending(atlas, retry_failed) or atlas.objects.exists(LEASE) or atlas.objects.list(QUARANTINED):
        with Lease(atlas.objects, _say) as lease:
            atlas = Atlas.open(url)  # others may have gone on while the lease was waited for
            _begin(atlas)
            _work(atlas, crew, retry_failed, lease)
            atlas.objects.sweep()
    finished = Atlas.open(url)
    if missing := [shard.name for shard in finished.run.shards if shard.name not in finished.committed]:
        raise RunFailedError(
            f"{url}: shards not done: {len(missing)}, the first is {missing[0]}; resume with: {crew.command(url)}"
        )
    if not finished.statuses()[SampleStatus.OK]:
        raise RunFailedError(f"no image of {url} has maps; vitatlas status {url} says why")
    return finished


def _pending(atlas: Atlas, retry_failed: bool) -> list[int]:
    """Shards that are to be done."""
    pending = [index for index, shard in enumerate(atlas.run.shards) if shard.name not in atlas.committed]
    if retry_failed:
        pending += [commit.shard_index for commit in atlas.records() if commit.ok < commit.rows]
    return sorted(pending)


def _begin(atlas: Atlas) -> None:
    """Forget what earlier runs left unfinished."""
    atlas.objects.sweep()
    for name in atlas.objects.list(QUARANTINED):
        atlas.objects.delete(f"{QUARANTINED}/{name}")


def _work(atlas: Atlas, crew: ExecutionOptions, retry_failed: bool, lease: Lease) -> None:
    url, run, stop, done = atlas.objects.url, atlas.run, GracefulShutdown(), 0
    pending = _pending(atlas, retry_failed)
    aside: list[Quarantined] = []
    if not pending:
        return
    try:
        with (
            unit_log(crew.log, run) as log,
            RunProgress(run, len(run.shards) - len(pending)) as progress,
            stop.listening(),
        ):
            for outcome in _outcomes(atlas, pending, crew, retry_failed, stop):
                progress.show(outcome)
                log(outcome)
                if isinstance(outcome, Committed):
                    done += 1
                elif isinstance(outcome, Quarantined):
                    aside.append(outcome)
                    _remember(atlas, outcome)
                elif isinstance(outcome, InProgress):
                    lease.in_progress = tuple(run.shards[index].name for index in outcome.shards)
                if lease.lost:
                    raise RunFailedError(f"{url}: another run has taken it over, as this one was silent for too long")
    except (KeyboardInterrupt, SystemExit):  # the latter is what Ray makes of SIGTERM while it starts and stops
        stop.asked = True
    if stop.asked and done + len(aside) < len(pending):
        left = len(pending) - done
        raise StoppedEarlyError(
            f"stopped early, {left} shards are left; resume with: {crew.command(url, retry_failed)}"
        )
    if aside:
        raise RunFailedError(
            f"{len(aside)} of {len(run.shards)} shards could not be done:\n  {_reasons(run, aside)}\n"
            f"fix them and resume with: {crew.command(url, retry_failed)}"
        )


def _remember(atlas: Atlas, outcome: Quarantined) -> None:
    shard = atlas.run.shards[outcome.shard_index].name
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = QuarantineRecord(shard=shard, reason=outcome.reason, finished=now)
    atlas.objects.put(quarantine_object(shard), record.to_bytes())


def _reasons(run: RunRecord, aside: list[Quarantined]) -> str:
    lines = []
    for outcome in sorted(aside, key=lambda each: each.shard_index)[:_NAMED]:
        url = run.shards[outcome.shard_index].url
        lines.append(outcome.reason if url in outcome.reason else f"{url}: {outcome.reason}")
    if len(aside) > _NAMED:
        lines.append(f"and {len(aside) - _NAMED} more, which vitatlas status lists")
    return "\n  ".join(lines)


def _outcomes(
    atlas: Atlas, units: Sequence[int], crew: ExecutionOptions, retry_failed: bool, stop: GracefulShutdown
) -> Iterator[Event]:
    url = atlas.objects.url
    if crew.executor == "ray" and url.startswith("memory:"):
        raise UsageError(f"{url}: is memory of this process, which no actor can see; use --executor inline")
    if crew.executor == "inline":
        from pipeline.run.inline_executor import inline

        yield from inline(url, units, crew, retry_failed)
    else:
        from pipeline.run.ray_executor import cluster, pool  # Ray is needed only here

        # Again: ray.init puts its own handler for SIGTERM.
        with cluster(crew.address), stop.listening(), stop.heeded():
            yield from pool(atlas, units, crew, retry_failed, stop)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
