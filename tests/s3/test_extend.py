"""An atlas in a bucket is extended: its objects are listed before and after."""

from pathlib import Path

import pytest
import s3fs
from support import samples, write_tar

from pipeline.run import INLINE, run
from pipeline.run.extend import extend
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.layout import arrays
from schemas.run import ModelSpec, RunSpec

METHODS, ADDED = ("attention", "random"), ("legrad", "center")


def listing(url: str) -> dict[str, tuple[str, int, str]]:
    """ETag, size and time of every object, by name."""
    found = s3fs.S3FileSystem().find(url, detail=True, refresh=True)
    prefix = url.removeprefix("s3://") + "/"
    return {
        path.removeprefix(prefix): (entry["ETag"], entry["size"], f"{entry['LastModified']}")
        for path, entry in found.items()
    }


@pytest.mark.parametrize("size", [4, pytest.param(64, marks=pytest.mark.soak)])
def test_only_the_objects_of_new_arrays_are_written(
    size: int, bucket: str, checkpoint: ModelSpec, tmp_path: Path
) -> None:
    for shard in range(size):
        write_tar(tmp_path / f"{shard:02}.tar", samples(2, 2 * shard))
    spec = RunSpec(shards=(f"{tmp_path}/*.tar",), model=checkpoint, methods=METHODS, batch_size=2)
    plan(spec, f"{bucket}/atlas")
    run(f"{bucket}/atlas", INLINE)
    before = listing(f"{bucket}/atlas")
    atlas = extend(f"{bucket}/atlas", ADDED, options=INLINE)
    after = listing(f"{bucket}/atlas")
    assert {name: after[name] for name in before} == before
    (part,) = atlas.parts
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
