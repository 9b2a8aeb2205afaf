"""Samples that have no maps, done again once their shards are mended."""

import shutil
from itertools import count
from pathlib import Path

import pytest
from support import crash_after, samples, soak_after, write_tar

from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas, ShardWriter
from pipeline.store.verify import verify
from schemas.errors import RunFailedError
from schemas.run import RunSpec
from schemas.shard_record import SourceRecord


def same_results(first: Path, second: Path) -> None:
    """Assert that two atlases that were planned on other files have the same maps and samples."""
    for chunk in first.glob("maps.zarr/*/c/**/*"):
        assert chunk.is_dir() or chunk.read_bytes() == (second / chunk.relative_to(first)).read_bytes()
    assert Atlas.open(str(first)).samples().equals(Atlas.open(str(second)).samples())


def test_retry_failed_does_only_the_samples_that_have_no_maps(
    finished: Path, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that was mended: its maps are those of a shard that was never broken, and no other shard is opened."""
    out, shard = tmp_path / "atlas", tmp_path / "shards" / "part-1.tar"
    whole, members = shard.read_bytes(), samples(7, 5)
    for place in (9, 18):
        members[place] = (members[place][0], b"junk")
    write_tar(shard, members)
    plan(spec, str(out))
    assert run(str(out), INLINE).commits["part-1"].statuses == {"ok": 5, "undecodable": 2}
    assert run(str(out), INLINE, retry_failed=True).commits["part-1"].ok == 5  # nothing has changed yet
    shard.write_bytes(whole)
    assert run(str(out), INLINE).commits["part-1"].ok == 5  # it is done, and nobody asked for more
    done: list[tuple[str, int]] = []
    add = ShardWriter.add

    def watched(self: ShardWriter, row, maps, extra_outputs) -> None:
        done.append((self.shard, row["ordinal"]))
        add(self, row, maps, extra_outputs)

    monkeypatch.setattr(ShardWriter, "add", watched)
    run(str(out), INLINE, retry_failed=True)
    assert done == [("part-1", 3), ("part-1", 6)]
    same_results(finished, out)
    assert verify(Atlas.open(str(out))).faults == []


@pytest.mark.usefixtures("computed_once")
@pytest.mark.parametrize("step", soak_after(1, [5, 1]))
def test_a_crash_at_any_moment_of_a_retry_is_mended(
    finished: Path, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    shard = tmp_path / "shards" / "part-1.tar"
    whole, members = shard.read_bytes(), samples(7, 5)
    members[9] = (members[9][0], b"junk")
    monkeypatch.setattr(SourceRecord, "changes", lambda self, now: [])  # also where the crash left no commit
    write_tar(shard, members)
    plan(spec, str(tmp_path / "first"))
    run(str(tmp_path / "first"), INLINE)
    shard.write_bytes(whole)
    for k in count(1, step):
        out = shutil.copytree(tmp_path / "first", tmp_path / f"crash-{k}")
        with crash_after(k, monkeypatch) as crash:
            run(str(out), INLINE, retry_failed=True)
        run(str(out), INLINE, retry_failed=True)
        same_results(finished, out)
        assert verify(Atlas.open(str(out))).faults == []
        if not crash.happened:
            break
    assert k > 12


def test_a_tar_of_other_samples_is_not_retried(spec: RunSpec, tmp_path: Path) -> None:
    out, shard = str(tmp_path / "atlas"), tmp_path / "shards" / "part-1.tar"
    members = samples(7, 5)
    members[9] = (members[9][0], b"junk")
    write_tar(shard, members)
    plan(spec, out)
    run(out, INLINE)
    write_tar(shard, samples(7, 20))
    with pytest.raises(RunFailedError, match=r"part-1: sample 0 was s0005 and is s0020 now; plan another atlas"):
        run(out, INLINE, retry_failed=True)
    assert Atlas.open(out).commits["part-1"].ok == 6
