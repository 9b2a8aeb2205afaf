"""Driver of a planned run: lease, pending shards, events, and the errors at its end."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

from pipeline.run.event_log import open_event_log
from pipeline.run.events import Event, ShardCommitted, ShardQuarantined, ShardsInProgress
from pipeline.run.execution import ExecutionOptions
from pipeline.run.progress import RunProgress
from pipeline.run.signals import GracefulShutdown
from pipeline.store import Atlas, Lease, zarr_arrays
from pipeline.store.commit_protocol import settle_all
from pipeline.store.lease import check_lease
from pipeline.utils.io import refuse_commands
from pipeline.utils.terminal import echo
from schemas.commits import QuarantineRecord
from schemas.errors import RunFailedError, StoppedEarlyError, UsageError
from schemas.layout import LEASE, QUARANTINED, STAGED, extended_url, quarantine_object
from schemas.run_record import RunRecord
from schemas.samples import SampleStatus

_MAX_NAMED = 50
"""Shards that an error message names; ``vitatlas status`` lists all."""


def run(url: str, options: ExecutionOptions | None = None, retry_failed: bool = False) -> Atlas:
    """Process every shard that has no commit yet, and then those of the parts that ``vitatlas extend`` has added.

    Args:
        url: of a planned atlas.
        options: of the execution; None is Ray with its defaults.
        retry_failed: in finished shards, process the samples without maps again.

    Returns:
        The finished atlas.

    Raises:
        RunFailedError: shards could not be done, which the message names; or another run writes to the atlas.
        StoppedEarlyError: interrupted by SIGINT or SIGTERM.
        UsageError: the options do not fit the atlas.
    """
    options, atlas = options or ExecutionOptions(), Atlas.open(url)
    # An atlas may come from an untrusted source; only the user may allow commands.
    refuse_commands((shard.url for shard in atlas.run.shards), options.allow_pipe)
    if any(_has_work(each, retry_failed) for each in (atlas, *atlas.parts)):
        with Lease(atlas.objects, partial(echo, err=True)) as lease:
            run_under_lease(url, options, retry_failed, lease)
            for part in Atlas.open(url).parts:
                run_part(part.objects.url, options, retry_failed)
    finished = Atlas.open(url)
    if missing := [shard.name for shard in finished.run.shards if shard.name not in finished.committed]:
        raise RunFailedError(
            f"{url}: shards not done: {len(missing)}, the first is {missing[0]}; "
            f"resume with: {options.resume_command(url)}"
        )
    statuses = finished.statuses()
    if statuses and not statuses[SampleStatus.OK]:
        raise RunFailedError(
            f"no image of {url} has maps; {_describe_first_sample(finished)}; vitatlas status {url} says more"
        )
    return finished


def run_part(url: str, options: ExecutionOptions, retry_failed: bool = False) -> None:
    """Process the pending shards of a part. The lease of the atlas that it extends must be held.

    Args:
        url: of the part.
        options: of the execution.
        retry_failed: as in ``run``.

    Raises:
        RunFailedError, StoppedEarlyError: see ``run``.
    """
    part = Atlas.open(url)
    mend_arrays(part)  # stopped, or its folder cleaned, while it was planned
    if _has_work(part, retry_failed):
        with Lease(part.objects, partial(echo, err=True)) as lease:
            run_under_lease(url, options, retry_failed, lease)


def mend_arrays(atlas: Atlas) -> None:
    """Write the metadata of the arrays of an atlas without its parts, if they are not those of its methods and shards.

    The lease must be held.
    """
    if zarr_arrays.metadata_faults(atlas.objects, atlas.own):
        zarr_arrays.create_arrays(atlas.objects, atlas.own)


def run_under_lease(url: str, options: ExecutionOptions, retry_failed: bool, lease: Lease) -> None:
    """Process the pending shards of an atlas, without its parts.

    Args:
        url: of the atlas.
        options: of the execution.
        retry_failed: as in ``run``.
        lease: of the atlas.

    Raises:
        RunFailedError, StoppedEarlyError: see ``run``.
    """
    atlas = Atlas.open(url, with_parts=False)  # another run may have committed shards before this one got the lease
    for _ in atlas.records():  # refuses those of another run, before anything is added to them
        pass
    mend_arrays(atlas)
    _clean_up(atlas)
    _execute(atlas, options, retry_failed, lease)
    settle_all(atlas.objects, atlas.run)
    atlas.objects.remove_temp_files()


def _has_work(atlas: Atlas, retry_failed: bool) -> bool:
    """Return whether shards are pending, or a dead run has left something that is to be cleaned up."""
    objects = atlas.objects
    leftovers = objects.exists(LEASE) or objects.list(QUARANTINED) or objects.list(STAGED)
    return bool(leftovers or _pending_shards(atlas, retry_failed))


def _describe_first_sample(atlas: Atlas) -> str:
    """Return what the first sample of an atlas lacks."""
    tables = ((shard, atlas.samples_of(shard, ["key", "error"])) for shard in atlas.shard_names)
    shard, rows = next((shard, table.to_pylist()) for shard, table in tables if len(table))
    return f"the first, {rows[0]['key']} in {shard}: {rows[0]['error']}"


def _pending_shards(atlas: Atlas, retry_failed: bool) -> list[int]:
    extended = atlas.open_extended()
    todo = [
        index for index, shard in enumerate(atlas.run.shards) if extended is None or shard.name in extended.committed
    ]
    pending = [index for index in todo if atlas.run.shards[index].name not in atlas.committed]
    if retry_failed and extended:
        now = {commit.shard: commit.statuses for commit in extended.records()}
        pending += [commit.shard_index for commit in atlas.records() if commit.statuses != now.get(commit.shard)]
    elif retry_failed:
        pending += [commit.shard_index for commit in atlas.records() if commit.ok < commit.rows]
    return sorted(pending)


def _clean_up(atlas: Atlas) -> None:
    """Finish or remove what earlier runs have left unfinished, and remove their quarantine records."""
    atlas.objects.remove_temp_files()
    settle_all(atlas.objects, atlas.run)
    for name in atlas.objects.list(QUARANTINED):
        atlas.objects.delete(f"{QUARANTINED}/{name}")


def _execute(atlas: Atlas, options: ExecutionOptions, retry_failed: bool, lease: Lease) -> None:
    run, shutdown, done = atlas.run, GracefulShutdown(), 0
    url = extended_url(atlas.objects.url) if run.extends else atlas.objects.url
    pending = _pending_shards(atlas, retry_failed)
    quarantined: list[ShardQuarantined] = []
    if not pending:
        return
    try:
        with (
            open_event_log(options.log, run) as log,
            RunProgress(run, len(run.shards) - len(pending)) as progress,
            shutdown.listening(),
        ):
            for event in _events(atlas, pending, options, retry_failed, shutdown, lease):
                lease.check()
                progress.show(event)
                log(event)
                if isinstance(event, ShardCommitted):
                    done += 1
                elif isinstance(event, ShardQuarantined):
                    quarantined.append(event)
                    check_lease(atlas.objects, lease.holder)  # the next run may have done the shard
                    _record_quarantine(atlas, event)
                elif isinstance(event, ShardsInProgress):
                    lease.in_progress = tuple(run.shards[index].name for index in event.shards)
    except (KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into the latter while it starts and stops
        shutdown.requested = True
    command = options.resume_command(url, retry_failed)
    if shutdown.requested and done + len(quarantined) < len(pending):
        raise StoppedEarlyError(f"stopped early, {len(pending) - done} shards are left; resume with: {command}")
    if quarantined:
        raise RunFailedError(
            f"{len(quarantined)} of {len(run.shards)} shards could not be done:",
            [*_reasons(run, quarantined), f"fix them and resume with: {command}"],
        )


def _record_quarantine(atlas: Atlas, event: ShardQuarantined) -> None:
    shard = atlas.run.shards[event.shard_index].name
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = QuarantineRecord(shard=shard, reason=event.reason, finished=now)
    atlas.objects.put(quarantine_object(shard), record.to_bytes())


def _reasons(run: RunRecord, quarantined: list[ShardQuarantined]) -> list[str]:
    lines = []
    for event in sorted(quarantined, key=lambda event: event.shard_index)[:_MAX_NAMED]:
        url = run.shards[event.shard_index].url
        lines.append(event.reason if url in event.reason else f"{url}: {event.reason}")
    if len(quarantined) > _MAX_NAMED:
        lines.append(f"and {len(quarantined) - _MAX_NAMED} more, which vitatlas status lists")
    return lines


def _events(
    atlas: Atlas,
    shards: Sequence[int],
    options: ExecutionOptions,
    retry_failed: bool,
    shutdown: GracefulShutdown,
    lease: Lease,
) -> Iterator[Event]:
    url = atlas.objects.url
    if options.executor == "ray" and url.startswith("memory:"):
        raise UsageError(f"{url}: is memory of this process, which no actor can see; use --executor inline")
    if options.executor == "inline":
        from pipeline.run.inline_executor import run_inline

        yield from run_inline(url, shards, options, retry_failed, lease.holder)
    else:
        from pipeline.run.ray_executor import ray_cluster, run_on_ray  # Ray is imported only if it is used

        # Listen again: ray.init installs its own handler of SIGTERM.
        with ray_cluster(options.address), shutdown.listening(), shutdown.polled():
            yield from run_on_ray(atlas, shards, options, retry_failed, shutdown, lease)
