"""Two writers and a reader in every order of their operations: no commit is lost, and nothing mixed is read."""

import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from store.interleavings import Explorer, Objects, Process, run_alone

from pipeline.store import (
    Atlas,
    ObjectStore,
    ShardWriter,
    atlas_reader,
    commit_protocol,
    lease,
    shard_writer,
    zarr_arrays,
)
from pipeline.store.commit_protocol import ShardTransaction, settle_all
from pipeline.store.lease import Lease
from schemas.base import sha256
from schemas.commits import CommitRecord, LeaseRecord, ObjectRecord
from schemas.errors import RunFailedError, ShardReplacedError, UsageError
from schemas.layout import LEASE, MAP, STAGED, ArraySpec, commit_object
from schemas.run_record import RunRecord
from schemas.shard_record import ShardRecord

SHARD = "part-0"
COMMIT = commit_object(SHARD)
HOLDERS = {
    name: LeaseRecord(holder=name, host=f"host-{name}", pid=1, since="2026-01-01T00:00:00+00:00") for name in "abc"
}
Sample = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def record(atlas: Atlas) -> RunRecord:
    """A run of one shard with two samples and one method."""
    return atlas.run.model_copy(
        update={
            "spec": atlas.run.spec.model_copy(update={"targets": ("label",)}),
            "methods": {"center": {}},
            "extra_outputs": {},
            "slot": 2,
            "chunk": 2,
            "shards": (ShardRecord(SHARD, "/part-0.tar", 2, 10),),
        }
    )


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clock, no waiting, nothing is encoded twice; ranges and flags are the same for all, for fewer operations."""
    monkeypatch.setattr(shard_writer, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    monkeypatch.setattr(shard_writer, "datetime", SimpleNamespace(now=lambda zone: datetime(2026, 1, 1, tzinfo=UTC)))
    monkeypatch.setattr(lease, "TIMEOUT", 0.0)
    encode, decode = zarr_arrays.encode_slot, zarr_arrays.decode_slot

    def encode_maps(run: RunRecord, spec: ArraySpec, values: NDArray[Any]) -> bytes:
        return encode(run, spec, values) if spec is MAP else repr(spec).encode()

    def decode_maps(run: RunRecord, spec: ArraySpec, data: bytes) -> NDArray[Any]:
        return decode(run, spec, data) if spec is MAP else zarr_arrays.empty_slot(spec, run)

    monkeypatch.setattr(zarr_arrays, "encode_slot", remembering(encode_maps, lambda run, *of: (of[0], of[1].tobytes())))
    monkeypatch.setattr(zarr_arrays, "decode_slot", remembering(decode_maps, lambda run, *of: of))
    to_parquet, from_parquet = shard_writer.to_parquet, atlas_reader.from_parquet
    monkeypatch.setattr(shard_writer, "to_parquet", remembering(to_parquet, lambda table: repr(table.to_pydict())))
    monkeypatch.setattr(
        atlas_reader, "from_parquet", remembering(from_parquet, lambda data, names: data + repr(names).encode())
    )


def remembering(function: Callable[..., Any], key: Callable[..., Any]) -> Callable[..., Any]:
    """A function that computes the same only once."""
    known: dict[Any, Any] = {}

    def instead(*arguments: Any) -> Any:
        of = key(*arguments)
        if of not in known:
            known[of] = function(*arguments)
        return known[of]

    return instead


def samples(record: RunRecord, bits: int, failed: Collection[int] = ()) -> list[Sample]:
    """Two samples; their maps depend on ``bits``, as on another GPU; some may have failed."""
    made: list[Sample] = []
    for ordinal in range(2):
        row = {"ordinal": ordinal, "key": f"s{ordinal}", "status": "ok", "prediction": 0, "probability": 0.5}
        maps = np.random.default_rng([ordinal, bits]).random((1, *record.model.grid), np.float32)
        made.append((row, {"center": maps}, {}))
    for ordinal in failed:
        row = {"ordinal": ordinal, "key": f"s{ordinal}", "status": "undecodable", "error": "not an image"}
        made[ordinal] = row, {}, {}
    return made


def write(objects: ObjectStore, run: RunRecord, name: str, made: list[Sample], retry: bool = False) -> CommitRecord:
    """What a worker does with a shard."""
    writer = ShardWriter(objects, run, 0, name)
    failed = writer.resume() if retry else None
    if failed is not None and not failed:
        return writer.previous
    for sample in made:
        if failed is None or sample[0]["ordinal"] in failed:
            writer.add(*sample)
    return writer.commit({}, 1, name, {"torch": "1"})


def awake(run: RunRecord, name: str, made: list[Sample], retry: bool = False) -> Process:
    """A driver that was stopped just before a worker of it wrote a shard, and goes on."""

    def process(objects: ObjectStore) -> object:
        commit = write(objects, run, name, made, retry)
        settle_all(objects, run)
        return commit

    return process


def taking_over(run: RunRecord, name: str, made: list[Sample], retry: bool = False) -> Process:
    """A driver that takes the lease of another that seems to be dead, does the shard unless it is done, and ends."""

    def process(objects: ObjectStore) -> object:
        held = lease_of(objects, name)
        held.acquire()
        settle_all(objects, run)
        commit = None
        if retry or not objects.exists(COMMIT):
            commit = write(objects, run, name, made, retry)
            settle_all(objects, run)
        held.__exit__()
        return commit

    return process


def lease_of(objects: ObjectStore, name: str) -> Lease:
    held = Lease(objects)
    held._record, held.holder, held._written = HOLDERS[name], name, HOLDERS[name].to_bytes()
    held._thread = SimpleNamespace(join=lambda timeout: None)
    return held


def read(run: RunRecord) -> Process:
    """What is made from a shard: again, if it was replaced meanwhile."""

    def process(objects: ObjectStore) -> object:
        while True:
            try:
                shard = Atlas(objects, run).shard(SHARD)
                arrays = tuple(shard.array(name).tobytes() for name in run.arrays)
            except ShardReplacedError:
                continue
            except UsageError:
                return None
            return tuple(shard.samples["status"].to_pylist()), arrays

    return process


def contents(run: RunRecord, made: list[Sample]) -> object:
    """What a reader finds of samples that one worker has written."""
    return run_alone(read(run), run_alone(lambda objects: write(objects, run, "", made), frozenset())[1])[0]


def held_by(name: str) -> tuple[str, bytes]:
    return LEASE, HOLDERS[name].to_bytes()


def committed(objects: Objects) -> CommitRecord | None:
    data = dict(objects).get(COMMIT)
    return None if data is None else CommitRecord.read(data, COMMIT)


def assert_complete(objects: Objects, commit: CommitRecord) -> None:
    """Everything that a commit names is in its place, and nothing is there beside it."""
    held = dict(objects)
    assert {record.path: sha256(held[record.path]) for record in commit.objects} == {
        record.path: record.sha256 for record in commit.objects
    }
    assert set(held) - {LEASE} == {COMMIT, *(record.path for record in commit.objects)}


def explore(run: RunRecord, processes: dict[str, Process], objects: Objects, possible: list[object]) -> Explorer:
    """Try every order, and assert in every state what must always hold.

    Args:
        possible: what a reader may find.
    """
    explorer = Explorer(processes, objects)
    for operation, before, after in explorer.changes:
        old, new = committed(before), committed(after)
        if old != new:
            assert new is not None, operation  # never uncommitted
            assert old is None or (new.ok > old.ok and new.replaces == sha256(old.to_bytes())), operation
    for objects in explorer.stores:
        found, _ = run_alone(read(run), objects)
        assert found in possible
        assert (found is None) == (committed(objects) is None)
    for outcomes, _ in explorer.ends:
        assert "reader" not in outcomes or outcomes["reader"] in possible
        for name in set(outcomes) - {"reader"}:
            assert isinstance(outcomes[name], CommitRecord | RunFailedError | None), outcomes[name]
    return explorer


@pytest.mark.parametrize("bits", [0, 1], ids=["the same bits", "other bits"])
def test_a_driver_that_wakes_up_and_the_one_that_took_over_lose_nothing(record: RunRecord, bits: int) -> None:
    first, second = samples(record, 0), samples(record, bits)
    possible = [None, contents(record, first), contents(record, second)]
    processes = {"a": awake(record, "a", first), "b": taking_over(record, "b", second), "reader": read(record)}
    explorer = explore(record, processes, frozenset([held_by("a")]), possible)
    for outcomes, objects in explorer.ends:
        for name in "ab":  # each has lost its lease, or has the commit as its result
            assert isinstance(outcomes[name], RunFailedError) or outcomes[name] in (committed(objects), None)
        assert not isinstance(outcomes["b"], RunFailedError)
    assert {committed(objects).host for _, objects in explorer.ends} == {"a", "b"}
    assert any(isinstance(outcomes["a"], RunFailedError) for outcomes, _ in explorer.ends)
    assert bits or not any(name.startswith(STAGED) for objects in explorer.stores for name, _ in objects)
    assert_resumable(explorer, record, second)


@pytest.mark.parametrize(
    ("bits", "left", "with_reader"),
    [
        (1, [], False),
        pytest.param(1, [1], False, marks=pytest.mark.soak),
        pytest.param(1, [], True, marks=pytest.mark.soak),
        pytest.param(0, [], True, marks=pytest.mark.soak),
    ],
)
def test_samples_that_are_retried_twice_at_once_are_replaced_as_a_whole(
    record: RunRecord, bits: int, left: list[int], with_reader: bool
) -> None:
    """By one driver that may leave some without maps, and by one that has maps of all.

    ``explore`` reads all that the store has held as well: without a reader only what it sees in its midst is missing.
    """
    before, first, second = samples(record, 0, [0, 1]), samples(record, 0, left), samples(record, bits)
    possible = [contents(record, made) for made in (before, first, second, [first[0], second[1]])]
    _, objects = run_alone(lambda objects: write(objects, record, "", before), frozenset())
    processes = {"a": awake(record, "a", first, retry=True), "b": taking_over(record, "b", second, retry=True)}
    if with_reader:
        processes["reader"] = read(record)
    explorer = explore(record, processes, objects | {held_by("a")}, possible)
    assert {committed(objects).host for _, objects in explorer.ends} == {"a", "b"}
    if with_reader:
        assert {outcomes["reader"] for outcomes, _ in explorer.ends} >= set(possible[:3])
    assert_resumable(explorer, record, second, retry=True)


def assert_resumable(explorer: Explorer, run: RunRecord, made: list[Sample], retry: bool = False) -> None:
    """Whatever is there when all are killed, the next run ends with a complete shard and nothing beside it."""
    for before in explorer.stores:
        _, after = run_alone(taking_over(run, "c", made, retry), before)
        commit = committed(after)
        assert commit is not None
        assert commit.ok == 2
        assert_complete(after, commit)
        if not retry and (found := committed(before)) is not None:
            assert commit == found


def test_a_lease_has_one_holder_and_who_has_lost_it_knows(record: RunRecord) -> None:
    def keep(objects: ObjectStore) -> object:
        held = lease_of(objects, "a")
        held.increment()
        held.__exit__()
        return held.lost

    def take(name: str) -> Process:
        def process(objects: ObjectStore) -> object:
            held = lease_of(objects, name)
            held.acquire()
            held.__exit__()
            return held.lost

        return process

    explorer = Explorer({"a": keep, "b": take("b"), "c": take("c")}, frozenset([held_by("a")]))
    for operation, before, after in explorer.changes:
        old, new = (dict(objects).get(LEASE) for objects in (before, after))
        if old != new and None not in (old, new):
            assert operation == ("replace", LEASE, new, sha256(old))
    assert all(objects == frozenset() for _, objects in explorer.ends)
    assert {outcomes["a"] for outcomes, _ in explorer.ends} == {True, False}


def deleting(self: ShardTransaction, commit: CommitRecord) -> bool:
    """Publish, after the commit before has been removed."""
    self.objects.delete(COMMIT)
    self.objects.put(COMMIT, commit.to_bytes())
    return True


def overwriting(self: ShardTransaction, path: str, data: bytes) -> ObjectRecord:
    return self.objects.put(path, data)


def sweeping(objects: ObjectStore, run: RunRecord) -> None:
    """Remove all that is staged, as if nobody could be about to publish it."""
    for name in objects.list(STAGED):
        objects.delete(f"{STAGED}/{name}")


def moving(objects: ObjectStore, record: ObjectRecord, staged: str, commit_name: str, commit: bytes) -> bool:
    """Move a staged object without looking whether a later commit has moved its own."""
    with suppress(FileNotFoundError):
        objects.put(record.path, objects.get(staged))
    return True


AWAKE, RETRIED, RETRIED_TWICE = (
    lambda record: test_a_driver_that_wakes_up_and_the_one_that_took_over_lose_nothing(record, 1),
    lambda record: test_samples_that_are_retried_twice_at_once_are_replaced_as_a_whole(record, 1, [], False),
    lambda record: test_samples_that_are_retried_twice_at_once_are_replaced_as_a_whole(record, 1, [1], False),
)


@pytest.mark.parametrize(
    ("place", "name", "wrong", "test"),
    [
        (ShardTransaction, "publish", deleting, AWAKE),
        (ShardTransaction, "write", overwriting, AWAKE),
        (sys.modules[__name__], "settle_all", sweeping, RETRIED),
        pytest.param(commit_protocol, "_move", moving, RETRIED_TWICE, marks=pytest.mark.soak),
    ],
)
def test_a_protocol_that_loses_something_is_found_out(
    record: RunRecord, monkeypatch: pytest.MonkeyPatch, place: object, name: str, wrong: object, test: Any
) -> None:
    monkeypatch.setattr(place, name, wrong)
    with pytest.raises((AssertionError, RunFailedError)):
        test(record)
