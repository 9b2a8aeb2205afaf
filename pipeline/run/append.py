"""Append shards to an atlas: their rows follow those that it has, and no existing row is changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline.read import count_samples, expand_shards, find_labels, resolve_pattern
from pipeline.read.shards import short_names
from pipeline.run.driver import mend_arrays, run
from pipeline.run.execution import ExecutionOptions
from pipeline.run.extend import open_whole
from pipeline.store import Atlas, Lease
from pipeline.store.run_file import read_planned
from pipeline.utils.io import refuse_commands
from pipeline.utils.terminal import echo
from schemas.base import sha256
from schemas.errors import RunFailedError, UsageError
from schemas.layout import APPENDED
from schemas.run_record import AppendedRecord, RunRecord
from schemas.shard_record import ShardRecord
from schemas.targets import most_labels


@dataclass(frozen=True)
class Append:
    """Which shards an atlas lacks of those that it should have.

    Attributes:
        atlas: that is extended.
        present: number of shards that it has of those that were asked for.
        shards: that are to be added; may be empty.
    """

    atlas: Atlas
    present: int
    shards: tuple[ShardRecord, ...]

    @property
    def samples(self) -> int:
        """Number of samples in the shards that are to be added."""
        return sum(shard.samples for shard in self.shards)


def plan_append(
    url: str,
    patterns: Sequence[str],
    allow_pipe: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Append:
    """Find out which shards an atlas lacks, and count their samples. Nothing is written.

    Args:
        url: of the atlas.
        patterns: of shards, as in a ``RunSpec``; those that the atlas has are left out.
        allow_pipe: accept shards that are shell commands.
        progress: called with the number of shards that are counted and of all.

    Raises:
        UsageError: there is no atlas or no such shard, a shard has more samples than fit into the rows of one, or none
            can be used.
    """
    atlas = open_whole(url)
    known, spec = {shard.url for shard in atlas.own.shards}, atlas.own.spec
    urls = expand_shards([resolve_pattern(pattern) for pattern in patterns], allow_pipe)
    missing = [shard for shard in urls if shard not in known]
    keep_partial = spec.partial_shards == "keep"
    shards = count_samples(missing, lambda done: progress(done, len(missing)), keep_partial, spec.grouping)
    if atlas.own.is_unlabelled:
        shards = find_labels(shards, spec.grouping)
    shards = _rename(atlas.own, shards)
    _check(atlas, shards)
    return Append(atlas, len(urls) - len(missing), shards)


def _rename(run: RunRecord, shards: tuple[ShardRecord, ...]) -> tuple[ShardRecord, ...]:
    """Return further shards with names that none of a run has, even on a case-insensitive disk.

    Raises:
        UsageError: that is not possible.
    """
    names = short_names([shard.url for shard in (*run.shards, *shards)])[len(run.shards) :]
    taken = {shard.name.lower() for shard in run.shards}
    for name, shard in zip(names, shards, strict=True):
        if name.lower() in taken:
            raise UsageError(f"{shard.url}: the atlas has another shard with the name {name}; rename its file")
    return tuple(replace(shard, name=name) for name, shard in zip(names, shards, strict=True))


def _check(atlas: Atlas, shards: Sequence[ShardRecord]) -> None:
    """Make sure that further shards fit into the rows and targets of an atlas, and that one can be used.

    Raises:
        UsageError: they do not, or none can.
    """
    for shard in shards:
        if shard.samples > atlas.own.slot:
            raise UsageError(
                f"{shard.url}: has {shard.samples:,} samples, and each shard of the atlas has room for "
                f"{atlas.own.slot:,} rows, as many as its largest when it was planned; split it, or plan another atlas"
            )
    added = [target for part in atlas.parts if part.own.first_target for target in part.own.stored_targets]
    unlabelled = [shard for shard in shards if shard.unlabelled and not atlas.own.spec.label_key]
    if unlabelled and most_labels(added):
        raise UsageError(
            f"{unlabelled[0].url}: {unlabelled[0].unlabelled:,} samples have no label (a .cls member), and labels were "
            "added to the targets of the atlas, for all of its images; give them one, or plan another atlas"
        )
    if shards and all(shard.fault and not (shard.partial and shard.samples) for shard in shards):
        raise UsageError(f"{shards[0].url}: {shards[0].fault}; no shard can be used")
    if fault := atlas.own.followed_by(tuple(shards)).slot_fault():
        raise UsageError(f"{atlas.objects.url}: {fault}; plan another atlas for these shards")


def append(
    url: str,
    patterns: Sequence[str],
    options: ExecutionOptions | None = None,
    on_plan: Callable[[Append], None] = lambda planned: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Atlas:
    """Add shards to an atlas, and compute their maps by all of its methods. What exists is not changed.

    Rows, samples and maps are then those of an atlas that was planned with all shards. Only ``appended.json`` and the
    metadata of the arrays, which tell their length, are written again. Call it again to resume; ``run`` does it, too.

    Args:
        url: of the atlas.
        patterns: of shards, as in a ``RunSpec``; those that the atlas has are left out.
        options: of the execution; None is Ray with its defaults.
        on_plan: called with what is added, before anything is written.
        progress: called with the number of shards that are counted and of all.

    Returns:
        The atlas with the shards.

    Raises:
        UsageError: see ``plan_append``.
        RunFailedError: another run or extend writes to the atlas, or shards could not be done.
        StoppedEarlyError: interrupted by SIGINT or SIGTERM.
    """
    options, opened = options or ExecutionOptions(), open_whole(url)
    refuse_commands((shard.url for shard in opened.own.shards), options.allow_pipe)
    with Lease(opened.objects, partial(echo, err=True)):
        planned = plan_append(url, patterns, options.allow_pipe, progress)
        on_plan(planned)
        if planned.shards:
            _lengthen(url)  # else the metadata could be two steps behind
            _record(planned)
            _lengthen(url)
    return run(url, options)


def _record(planned: Append) -> None:
    """Write ``appended.json``, which makes the shards exist.

    Raises:
        RunFailedError: another command has appended shards since these were planned.
    """
    objects, run = planned.atlas.objects, planned.atlas.own
    before = objects.get(APPENDED) if objects.exists(APPENDED) else b""
    current = Atlas.open(objects.url, with_parts=False).own
    shards = (*current.shards[len(read_planned(objects).shards) :], *planned.shards)
    data = AppendedRecord(run_hash=run.run_hash, latest=len(planned.shards), shards=shards).sealed().to_bytes()
    if current.shards != run.shards or not (
        objects.replace(APPENDED, data, sha256(before)) if before else objects.create(APPENDED, data)
    ):
        raise RunFailedError(f"{objects.url}: another command has appended shards; run the same command again")


def _lengthen(url: str) -> None:
    """Give the arrays of an atlas and of its parts the rows of all shards."""
    atlas = Atlas.open(url)
    for each in (atlas, *atlas.parts):
        mend_arrays(each)
