"""An atlas in a bucket is extended: its objects are listed before and after."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import samples, write_tar

from pipeline.run import INLINE, run
from pipeline.run.append import append
from pipeline.run.extend import extend
from pipeline.run.plan import plan
from pipeline.store import Atlas, ObjectStore
from pipeline.store.verify import verify
from pipeline.store.zarr_arrays import metadata_objects
from schemas.layout import APPENDED, arrays, shard_object
from schemas.run import ModelSpec, RunSpec

METHODS, ADDED = ("attention", "random"), ("legrad", "center")


def listing(url: str) -> dict[str, bytes]:
    """Contents of every object, by name."""
    objects = ObjectStore(url)
    names = [name for name, _ in objects.list_all()]
    return dict(zip(names, objects.read(names), strict=True))


def watched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """URLs of all objects that are written, replaced or deleted from now on."""
    changed = set[str]()
    for operation in ("put", "create", "replace", "delete"):
        plain = getattr(ObjectStore, operation)

        def watching(self: ObjectStore, name: str, *arguments: Any, plain: Callable[..., Any] = plain) -> Any:
            changed.add(f"{self.url}/{name}")
            return plain(self, name, *arguments)

        monkeypatch.setattr(ObjectStore, operation, watching)
    return changed


@pytest.mark.parametrize("size", [2, pytest.param(64, marks=pytest.mark.soak)])
def test_only_the_objects_of_new_arrays_are_written(
    size: int, bucket: str, checkpoint: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(size):
        write_tar(tmp_path / f"{shard:02}.tar", samples(2, 2 * shard))
    spec = RunSpec(shards=(f"{tmp_path}/*.tar",), model=checkpoint, methods=METHODS, batch_size=2)
    plan(spec, f"{bucket}/atlas")
    run(f"{bucket}/atlas", INLINE)
    before, changed = listing(f"{bucket}/atlas"), watched(monkeypatch)
    atlas = extend(f"{bucket}/atlas", ADDED, options=INLINE)
    after = listing(f"{bucket}/atlas")
    assert {name: after[name] for name in before} == before
    (part,) = atlas.parts
    others = {url.removeprefix(f"{bucket}/atlas/") for url in changed if not url.startswith(f"{part.objects.url}/")}
    assert others == {"lease.json"}
    new = [name.removeprefix(f"{atlas.folder_of(part)}/") for name in sorted(after.keys() - before.keys())]
    names = [name for method in ADDED for name in arrays(method, ())]
    assert {name.split("/")[1] for name in new if name.startswith("maps.zarr/") and "/c/" in name} == {*names, "target"}
    written = {kind: [name for name in new if name.startswith(f"{kind}/")] for kind in ("samples", "commits")}
    assert [len(found) for found in written.values()] == [size, size]
    chunks, metadata = size * len(names) + 1, len(names) + 2  # of the targets, too, and of the group
    assert len(new) == chunks + metadata + 2 * size + 1  # and run.json
    all_methods = spec.model_copy(update={"methods": (*METHODS, *ADDED)})
    plan(all_methods, str(tmp_path / "all"))
    other = run(str(tmp_path / "all"), INLINE)
    reader = Atlas.open(f"{bucket}/atlas")
    for shard in other.shard_names:
        one, whole = reader.shard(shard), other.shard(shard)
        for array in other.run.arrays:
            assert one.array(array).tobytes() == whole.array(array).tobytes(), (shard, array)


def test_appending_writes_the_objects_of_new_shards_and_the_length_of_arrays(
    bucket: str, checkpoint: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [str(write_tar(tmp_path / f"{shard}.tar", samples(2, 2 * shard))) for shard in range(4)]
    plan(RunSpec(shards=tuple(shards[:2]), model=checkpoint, methods=METHODS, batch_size=2), f"{bucket}/atlas")
    run(f"{bucket}/atlas", INLINE)
    for index in (2, 3):  # first appended.json is created, then replaced
        before, changed = listing(f"{bucket}/atlas"), watched(monkeypatch)
        atlas = append(f"{bucket}/atlas", shards[: index + 1], INLINE)
        written = {url.removeprefix(f"{bucket}/atlas/") for url in changed}
        assert written & before.keys() - {APPENDED} == set(metadata_objects(atlas.own))
        chunks = {shard_object(name, index, len(spec.dims)) for name, spec in atlas.own.arrays.items()}
        new = chunks | {f"samples/{index}.parquet", f"commits/{index}.json"}
        assert written - before.keys() - {APPENDED} == new | {"lease.json"}
        assert listing(f"{bucket}/atlas").keys() == before.keys() | new | {APPENDED}
    assert verify(atlas).faults == []
