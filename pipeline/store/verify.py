"""Is what stands in an atlas what was committed, all of it, and nothing else?"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pipeline.store import zarr_arrays
from pipeline.store.atlas import Atlas
from pipeline.store.atlas_shard import AtlasShard
from pipeline.store.object_store import ObjectStore
from pipeline.utils.atomic_write import is_temp_file
from pipeline.utils.concurrency import concurrent_map
from schemas import layout
from schemas.base import sha256
from schemas.commits import CommitRecord, ObjectRecord
from schemas.errors import RunFailedError
from schemas.layout import ArraySpec, commit_object, quarantine_object, samples_object, shard_object
from schemas.samples import SampleStatus

_DERIVED = (layout.LABELS, layout.SCORES, layout.AUDIT)


@dataclass
class VerifyResult:
    """What was looked at, and what is wrong.

    Attributes:
        objects: committed ones that were read and compared.
        missing: shards that have no commit.
        faults: a sentence for each.
        damaged: shards that are to be done again, for it to be mended.
    """

    objects: int = 0
    missing: int = 0
    faults: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def verify(url: str, progress: Callable[[int, int], None] = lambda done, total: None) -> VerifyResult:
    """Check every committed object by its checksum, every row by its map, and that nothing else is there.

    Each object is read once. Shards are looked at side by side, each object by object, so some 32 objects are in memory.

    Args:
        progress: called with shards checked and shards in all.
    """
    atlas = Atlas.open(url)
    verdict = VerifyResult(missing=len(atlas.run.shards) - len(atlas.committed))
    if atlas.run.spec.digest() != atlas.run.spec_hash:
        verdict.faults.append(f"{layout.RUN}: has been changed since it was planned, or another version planned it")
    verdict.faults += zarr_arrays.wrong(atlas.objects, atlas.run)
    if verdict.faults:  # nothing can be read through such metadata
        return verdict
    expected = _of_the_run(atlas)
    held = _Held(atlas.objects)
    looks = concurrent_map(partial(_look, Atlas(held, atlas.run), held, atlas.committed), range(len(atlas.run.shards)))
    for done, (shard, looked) in enumerate(zip(atlas.run.shards, looks, strict=True), 1):
        verdict.objects += looked.objects
        verdict.faults += looked.faults
        verdict.damaged += [shard.name] * bool(looked.faults)
        expected |= looked.names
        progress(done, len(atlas.run.shards))
    for name, _ in atlas.objects.list_all():
        if is_temp_file(name) and verdict.missing:
            continue  # a run that goes on removes it
        if name not in expected and name.partition("/")[0] not in _DERIVED:
            verdict.faults.append(f"{name}: belongs to nothing that was committed")
    return verdict


class _Held(ObjectStore):
    """Objects of which some are in memory for a while, and are read from there."""

    def __init__(self, objects: ObjectStore) -> None:
        vars(self).update(vars(objects))
        self._contents: dict[str, bytes] = {}

    def get(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        data = self._contents.get(name)
        return super().get(name, start, end) if data is None else data[start:end]

    def take(self, entry: ObjectRecord) -> str | None:
        """Read an object, and hold it if it is as it was committed; else say what is wrong."""
        try:
            data = super().get(entry.path)
        except FileNotFoundError:
            return f"{entry.path}: is missing"
        if len(data) != entry.size:
            return f"{entry.path}: has {len(data)} bytes, {entry.size} were committed"
        if sha256(data) != entry.sha256:
            return f"{entry.path}: its contents have changed since they were committed"
        self._contents[entry.path] = data
        return None

    def drop(self, name: str) -> None:
        self._contents.pop(name, None)


@dataclass
class _Looked:
    """What was found of a shard.

    Attributes:
        objects: that are committed.
        faults: a sentence for each.
        names: of the objects that may be there.
    """

    objects: int
    faults: list[str]
    names: set[str]


def _look(atlas: Atlas, held: _Held, committed: frozenset[str], shard_index: int) -> _Looked:
    shard, own = atlas.run.shards[shard_index].name, _own(atlas, shard_index)
    if shard not in committed:
        return _Looked(0, [], set(own))  # what a stopped run wrote of it is written over when it is done
    try:
        commit = atlas.record(shard)
    except RunFailedError as error:
        return _Looked(0, [f"{error}"], set(own))
    entries = {entry.path: entry for entry in commit.objects}
    changed: dict[str, str] = {}
    lacking: list[str] = []
    part: AtlasShard | None = None
    for path, array in own.items():
        if path in entries and (fault := held.take(entries[path])) is not None:
            changed[path] = fault
        elif array is None:
            part, lacking = _rows(atlas, commit)
        elif part is not None:
            lacking += _wrong_rows(atlas, part, *array)
        held.drop(path)
    faults = [f"its commit names {path}, which is not its own" for path in entries if path not in own]
    faults += [changed[path] for path in entries if path in changed]
    wrong = faults or lacking  # rows of what has changed say nothing
    return _Looked(len(commit.objects), [f"{shard}: {each}" for each in wrong], set(entries))


def _of_the_run(atlas: Atlas) -> set[str]:
    """Objects that are there whatever is committed, or may be."""
    shards = [shard.name for shard in atlas.run.shards]
    names = {layout.RUN, layout.LEASE, *zarr_arrays.metadata_objects(atlas.run)}
    return (
        names
        | {commit_object(shard_name) for shard_name in shards}
        | {quarantine_object(shard_name) for shard_name in shards}
    )


def _own(atlas: Atlas, shard_index: int) -> dict[str, tuple[str, ArraySpec] | None]:
    """Objects that a shard may have: its sample table, and parts of arrays, whose names and kinds are told."""
    run = atlas.run
    own: dict[str, tuple[str, ArraySpec] | None] = {samples_object(run.shards[shard_index].name): None}
    for method in run.methods:
        for name, kind in layout.arrays(method, run.extra_outputs.get(method, ())).items():
            own[shard_object(name, shard_index, len(kind.dims))] = name, kind
    return own


def _rows(atlas: Atlas, commit: CommitRecord) -> tuple[AtlasShard | None, list[str]]:
    """A shard, if its samples are those that were committed; and what is wrong with them."""
    try:
        part = AtlasShard(atlas, commit)
    except RunFailedError:
        return None, ["its sample table cannot be read"]
    rows = part.samples["row"].to_numpy()
    first = commit.shard_index * atlas.run.slot
    if len(rows) != commit.rows or not np.array_equal(rows, np.arange(first, first + commit.rows)):
        return None, [f"its sample table has not the {commit.rows} rows that were committed"]
    statuses = Counter(part.samples["status"].to_pylist())
    if dict(statuses) != commit.statuses or statuses[SampleStatus.OK] != commit.ok:
        return None, [f"its rows have the statuses {dict(statuses)}, {commit.statuses} were committed"]
    keys = Counter(key for key, ok in zip(part.samples["key"].to_pylist(), part.good, strict=True) if ok)
    return part, [f"{count} samples that are ok have the key {key}" for key, count in keys.items() if count > 1]


def _wrong_rows(atlas: Atlas, part: AtlasShard, name: str, kind: ArraySpec) -> list[str]:
    if kind is layout.EXTRA_OUTPUT:  # may be undefined
        return []
    try:
        values = part.array(name)[part.good]
    except RunFailedError:
        return [f"its part of {name} cannot be read"]
    present = np.isfinite(values) if np.isnan(kind.empty) else values != kind.empty
    what = f"{name} map" if kind is layout.MAP else name
    problems = []
    for place, target in enumerate(atlas.run.spec.targets):
        lacking = int((~present[:, place]).any(tuple(range(1, present.ndim - 1))).sum())
        if lacking:
            problems.append(f"{lacking} samples that are ok have no {what} of their {target}")
    return problems
