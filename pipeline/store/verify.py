"""Verify an atlas: every committed object is as committed, every row has its maps, and there is nothing else."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store import zarr_arrays
from pipeline.store.atlas import Atlas
from pipeline.store.atlas_shard import AtlasShard
from pipeline.store.commit_protocol import read_committed
from pipeline.store.object_store import ObjectStore
from pipeline.store.run_file import read_appended, read_dropped, read_run
from pipeline.store.verify_source import find_source_fault
from pipeline.store.versions import VersionCounts
from pipeline.utils.atomic_write import is_temp_file
from pipeline.utils.concurrency import concurrent_map
from schemas import layout
from schemas.base import sha256
from schemas.commits import CommitRecord, ObjectRecord
from schemas.errors import RunFailedError, ShardReplacedError, UsageError
from schemas.layout import ArraySpec, commit_object, quarantine_object, samples_object, shard_object
from schemas.samples import LABEL_COLUMNS, TARGET_COLUMNS, SampleStatus

_DERIVED = (layout.LABELS, layout.SCORES, layout.AUDIT, layout.RANK)


@dataclass
class VerifyResult:
    """Result of a verification.

    Attributes:
        objects: number of committed objects that were compared.
        missing: number of shards without a commit.
        faults: one sentence per fault.
        damaged: shards that must be done again to repair the atlas; of a part with the path of its folder in front.
        notes: what a reader should know, though it is no fault.
        versions: number of shards by version, of each package that differs between shards.
    """

    objects: int = 0
    missing: int = 0
    faults: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, part: "VerifyResult", name: str) -> None:
        """Add the result of a part.

        Args:
            part: result of it alone.
            name: path of its folder in the atlas.
        """
        self.objects += part.objects
        self.missing += part.missing
        self.faults += [f"{name}: {fault}" for fault in part.faults]
        self.damaged += [f"{name}/{shard}" for shard in part.damaged]
        self.notes += [f"{name}: {note}" for note in part.notes]


def verify(atlas: Atlas, progress: Callable[[int, int], None] = lambda done, total: None) -> VerifyResult:
    """Verify every committed object by its checksum, and every row by its maps; report other objects.

    The files of the shards are compared by size, ETag and headers with those that the maps were computed from.

    Each object is read once. Shards are verified concurrently, each object by object, so some 32 objects are in memory.

    Args:
        atlas: the atlas.
        progress: called with the number of verified shards and of all shards, of the atlas and then of each part.
    """
    result = _verify_own(atlas, progress)
    for part in atlas.parts:
        name = atlas.folder_of(part)
        result.add(_verify_own(part, progress), name)
        common = [shard for shard in atlas.shard_names if shard in part.committed]
        result.faults += filter(None, concurrent_map(partial(_difference_of_part, atlas, part, name), common))
    return result


def _difference_of_part(atlas: Atlas, part: Atlas, name: str, shard: str) -> str | None:
    """Return how the samples of a part differ from those of its atlas, if they do, but for further targets."""
    try:
        if atlas.record(shard).statuses != part.record(shard).statuses:
            url = atlas.objects.url
            return f"{name}: {shard} lacks maps of samples that were retried; vitatlas run {url} --retry-failed"
        own, other = Atlas(atlas.objects, atlas.own).samples_of(shard), part.samples_of(shard)
        same = own.equals(other) if atlas.own.spec.targets == part.own.spec.targets else _begin_alike(own, other)
    except RunFailedError:
        return None  # it has a fault of its own
    return None if same else f"{name}: {shard} has other samples than the atlas"


def _begin_alike(samples: pa.Table, others: pa.Table) -> bool:
    """Return whether all values of samples are in others, which may have values of further targets."""
    columns = [name for name in samples.column_names if name not in (*TARGET_COLUMNS, *LABEL_COLUMNS)]
    if not samples.select(columns).equals(others.select(columns)):
        return False
    rows = (table.select([*TARGET_COLUMNS, *LABEL_COLUMNS]).to_pylist() for table in (samples, others))
    return all(
        value is None or (value == other[name] if name in LABEL_COLUMNS else value == (other[name] or [])[: len(value)])
        for row, other in zip(*rows, strict=True)
        for name, value in row.items()
    )


def _verify_own(atlas: Atlas, progress: Callable[[int, int], None]) -> VerifyResult:
    """Verify an atlas without its parts, or one of its parts."""
    result = VerifyResult(missing=len(atlas.own.shards) - len(atlas.committed))
    appended = read_appended(atlas.objects, atlas.own)
    result.faults += zarr_arrays.metadata_faults(atlas.objects, atlas.own)
    if result.faults and appended:
        result.faults = zarr_arrays.metadata_faults(
            atlas.objects, atlas.own, earlier=atlas.own.before_last(appended.latest)
        )
        if not result.faults:
            result.notes.append(f"shards are being appended; to go on: vitatlas run {atlas.objects.url}")
    if result.faults:  # arrays cannot be read with such metadata
        result.faults += _commit_faults(atlas)
        return result
    expected, parts = _run_objects(atlas), {part.objects.url for part in atlas.parts}
    dropped, alone = _dropped_arrays(atlas), Atlas(atlas.objects, atlas.own)
    shard_results = concurrent_map(partial(_verify_shard, alone, dropped), range(len(atlas.run.shards)))
    across = _AcrossShards()
    for done, (shard, shard_result) in enumerate(zip(atlas.run.shards, shard_results, strict=True), 1):
        result.objects += shard_result.objects
        result.faults += shard_result.faults
        result.damaged += [shard.name] * bool(shard_result.faults)
        expected |= shard_result.names
        across.add(shard.name, shard_result)
        progress(done, len(atlas.run.shards))
    result.faults += across.source_faults
    result.notes += across.notes(atlas)
    result.versions = across.versions.mixed()
    staged = unplanned = left = 0
    for name, _ in atlas.objects.list_all():
        if name.startswith(f"{layout.PARTS}/"):
            unplanned += f"{atlas.objects.url}/{'/'.join(name.split('/')[:2])}" not in parts
            continue
        if is_temp_file(name) and result.missing:
            continue  # the run removes it when it resumes
        if name.startswith(f"{layout.STAGED}/"):
            staged += 1
        elif _array_of(name) in dropped:
            left += 1
        elif name not in expected and name.partition("/")[0] not in _DERIVED:
            result.faults.append(f"{name}: belongs to nothing that was committed")
    if left:
        result.notes.append(f"{left:,} objects are of dropped methods; the same vitatlas drop again deletes them")
    if unplanned:
        result.notes.append(
            f"{unplanned:,} objects in {layout.PARTS}/ belong to no part: an extend was stopped while it planned, or a "
            "drop before its end; run the same command again"
        )
    if staged:
        result.notes.append(
            f"{staged:,} objects in {layout.STAGED}/ are of a run that goes on or was interrupted; run to its end, it "
            "removes them"
        )
    return result


def _commit_faults(atlas: Atlas) -> list[str]:
    """Return a sentence for each commit that is damaged or of another run."""

    def fault(shard: str) -> str | None:
        try:
            atlas.record(shard)
        except RunFailedError as error:
            return f"{error}"
        return None

    return [sentence for sentence in concurrent_map(fault, atlas.shard_names) if sentence is not None]


@dataclass
class _ShardResult:
    """Result of one shard.

    Attributes:
        objects: number of committed objects.
        faults: one sentence per fault.
        names: objects that may exist.
        versions: as in ``CommitRecord``.
        keys: keys of the samples that have maps.
        source_fault: what is wrong with the file of the shard.
        unreachable: why that file cannot be compared.
    """

    objects: int
    faults: list[str]
    names: set[str]
    versions: dict[str, str] = field(default_factory=dict)
    keys: Sequence[str] = ()
    source_fault: str | None = None
    unreachable: str | None = None


@dataclass
class _AcrossShards:
    """What is seen only when shards are compared with one another, or with the files that they were computed from.

    Attributes:
        versions: versions of packages.
        source_faults: one sentence for each file that has changed.
        unreachable: reason for each file that could not be reached.
        key_hashes: hashes of the keys by shard, 8 bytes each, since there may be very many.
    """

    versions: VersionCounts = field(default_factory=VersionCounts)
    source_faults: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    key_hashes: dict[str, NDArray[np.uint64]] = field(default_factory=dict)

    def add(self, shard: str, result: _ShardResult) -> None:
        """Add a shard.

        Args:
            shard: its name.
            result: of it.
        """
        self.versions.add(result.versions)
        if result.source_fault:
            self.source_faults.append(f"{shard}: {result.source_fault}")
        if result.unreachable:
            self.unreachable.append(f"{shard} ({result.unreachable})")
        self.key_hashes[shard] = np.unique(np.array([_hash_key(key) for key in result.keys], np.uint64))

    def notes(self, atlas: Atlas) -> list[str]:
        """Return a sentence for each thing that is to be told."""
        notes = [
            f"{package} differs between shards: "
            + ", ".join(f"{version} in {count:,}" for version, count in counts.items())
            for package, counts in self.versions.mixed().items()
        ]
        hashes, counts = np.unique(np.concatenate(list(self.key_hashes.values())), return_counts=True)
        if len(repeated := hashes[counts > 1]):
            shard = next(name for name, own in self.key_hashes.items() if np.isin(own, repeated).any())
            keys = atlas.samples_of(shard, ["key"])["key"].to_pylist()
            example = next(key for key in keys if _hash_key(key) in repeated)
            notes.append(f"{len(repeated):,} keys are in several shards, such as {example} of {shard}; ask for rows")
        if self.unreachable:
            notes.append(
                f"the files of {len(self.unreachable):,} shards cannot be reached and were not compared, such as that "
                f"of {self.unreachable[0]}"
            )
        return notes


def _hash_key(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def _dropped_arrays(atlas: Atlas) -> frozenset[str]:
    """Return the arrays of the methods that were dropped."""
    if not read_dropped(atlas.objects):
        return frozenset()
    return frozenset(set(read_run(atlas.objects).arrays) - set(atlas.own.arrays))


def _array_of(path: str) -> str | None:
    """Return the array that an object belongs to."""
    folder, _, rest = path.partition("/")
    return rest.partition("/")[0] if folder == layout.MAPS else None


def _verify_shard(atlas: Atlas, dropped: frozenset[str], shard_index: int) -> _ShardResult:
    name, shard_objects = atlas.run.shards[shard_index].name, _shard_objects(atlas, shard_index)
    if name not in atlas.committed:
        return _ShardResult(0, [], set(shard_objects))  # objects of a stopped run are overwritten later
    try:
        return atlas.read_current(name, partial(_verify_committed, atlas, dropped, shard_objects))
    except RunFailedError as error:
        return _ShardResult(0, [f"{error}"], set(shard_objects))


def _verify_committed(
    atlas: Atlas,
    dropped: frozenset[str],
    shard_objects: dict[str, tuple[str, ArraySpec] | None],
    commit: CommitRecord,
) -> _ShardResult:
    records = {record.path: record for record in commit.objects if _array_of(record.path) not in dropped}
    faults = [f"its commit names {path}, which is not its own" for path in records if path not in shard_objects]
    row_faults: list[str] = []
    shard: AtlasShard | None = None
    for path, array in shard_objects.items():
        data, fault = _load(atlas.objects, commit, records[path]) if path in records else (None, None)
        if fault is not None:
            faults.append(fault)
        elif array is None:
            shard, row_faults = _verify_samples(atlas, commit)
        elif shard is not None:
            row_faults += _verify_rows(shard, *array, data)
    faults = faults or row_faults  # rows of changed objects are meaningless
    faults = [f"{commit.shard}: {fault}" for fault in faults]
    result = _ShardResult(len(records), faults, set(records), commit.versions)
    if shard is not None:
        keys = shard.samples["key"].to_pylist()
        result.keys = [key for key, has_maps in zip(keys, shard.has_maps, strict=True) if has_maps]
    try:
        result.source_fault = find_source_fault(atlas.run.shards[commit.shard_index].url, commit.source)
    except (OSError, UsageError) as error:
        result.unreachable = f"{error}"
    return result


def _load(objects: ObjectStore, commit: CommitRecord, record: ObjectRecord) -> tuple[bytes | None, str | None]:
    """Return an object as it was committed, and the fault if it is not."""
    try:
        data = objects.get(record.path)
        if sha256(data) == record.sha256:
            return data, None
        fault = f"{record.path}: its contents have changed since they were committed"
        if len(data) != record.size:
            fault = f"{record.path}: has {len(data)} bytes, {record.size} were committed"
    except FileNotFoundError:
        fault = f"{record.path}: is missing"
    try:  # it may be staged, or the commit replaced
        return read_committed(objects, commit, record), None
    except ShardReplacedError:
        raise
    except RunFailedError:
        return None, fault


def _run_objects(atlas: Atlas) -> set[str]:
    """Return the objects of the run that may exist whatever is committed."""
    shards = [shard.name for shard in atlas.run.shards]
    names = {layout.RUN, layout.LEASE, layout.DROPPED, layout.APPENDED, *zarr_arrays.metadata_objects(atlas.own)}
    return names | {commit_object(shard) for shard in shards} | {quarantine_object(shard) for shard in shards}


def _shard_objects(atlas: Atlas, shard_index: int) -> dict[str, tuple[str, ArraySpec] | None]:
    """Return the objects that a shard may have: its sample table (None), and its Zarr shards with array and spec."""
    run = atlas.own
    arrays: dict[str, tuple[str, ArraySpec] | None] = {samples_object(run.shards[shard_index].name): None}
    for name, spec in run.arrays.items():
        arrays[shard_object(name, shard_index, len(spec.dims))] = name, spec
    return arrays


def _verify_samples(atlas: Atlas, commit: CommitRecord) -> tuple[AtlasShard | None, list[str]]:
    """Return a shard, if its sample table is as committed, and the faults."""
    try:
        shard = AtlasShard(atlas, commit)
    except RunFailedError:
        return None, ["its sample table cannot be read"]
    rows = shard.samples["row"].to_numpy()
    first = commit.shard_index * atlas.run.slot
    if len(rows) != commit.rows or not np.array_equal(rows, np.arange(first, first + commit.rows)):
        return None, [f"its sample table does not have the {commit.rows} rows that were committed"]
    statuses = Counter(shard.samples["status"].to_pylist())
    if dict(statuses) != commit.statuses or statuses[SampleStatus.OK] != commit.ok:
        return None, [f"its rows have the statuses {dict(statuses)}, {commit.statuses} were committed"]
    pairs = zip(shard.samples["key"].to_pylist(), shard.has_maps, strict=True)
    keys = Counter(key for key, has_maps in pairs if has_maps)
    return shard, [f"{count} samples that are ok have the key {key}" for key, count in keys.items() if count > 1]


def _verify_rows(shard: AtlasShard, name: str, spec: ArraySpec, data: bytes | None) -> list[str]:
    if spec is layout.EXTRA_OUTPUT:  # may be undefined
        return []
    values = zarr_arrays.decode_slot(shard.run, spec, data)[: shard.commit.rows]
    present = np.isfinite(values) if np.isnan(spec.empty) else values != spec.empty
    noun = f"{name} map" if spec is layout.MAP else name
    faults = []
    for index, target in enumerate(shard.run.stored_targets):
        found = present[shard.has_maps_of(target), index]
        missing = int((~found).any(tuple(range(1, found.ndim))).sum())
        if missing:
            faults.append(f"{missing} samples that are ok have no {noun} of their {target}")
    return faults
