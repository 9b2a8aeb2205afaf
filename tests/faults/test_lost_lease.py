"""Drivers that are stopped and wake up, actors that nobody waits for, and readers beside a retry: nothing is lost."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import soon
from support import same_bytes, samples, write_tar

from pipeline.label import label
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.run.worker import Worker
from pipeline.store import Atlas, Lease, ObjectStore, ShardWriter, lease
from pipeline.store.verify import verify
from schemas.errors import RunFailedError, ShardReplacedError
from schemas.policy import Policy, Threshold
from schemas.run import RunSpec

STOPPED = """
import os, signal
from pipeline.store import lease, shard_writer
lease.HEARTBEAT = 0.2
publish, seen = shard_writer.ShardTransaction.publish, []

def stopping(self, commit):
    published = publish(self, commit)
    if not seen:
        seen.append(commit)
        os.kill(os.getpid(), signal.SIGSTOP)
    return published

shard_writer.ShardTransaction.publish = stopping
from jobs.cli import main
main()
"""


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.soak
def test_a_driver_that_sleeps_after_its_first_commit_finds_another_has_finished_and_changes_nothing(
    finished: Path, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))
    monkeypatch.setattr(lease, "TIMEOUT", 1.0)
    command = [sys.executable, "-c", STOPPED, "run", str(out), "--executor", "inline"]
    sleeper = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert soon(lambda: is_stopped(sleeper.pid))
        assert Atlas.open(str(out)).shard_names == ("part-0",)
        run(str(out), INLINE)
        before = bytes_of(out)
        os.kill(sleeper.pid, signal.SIGCONT)
        said = sleeper.communicate(timeout=120)[1]
    finally:
        sleeper.kill()
    assert sleeper.returncode == 1
    assert "another run has taken it over, as this one was silent for too long" in said
    assert bytes_of(out) == before
    same_bytes(finished, out)


def test_an_actor_that_nobody_waits_for_commits_nothing_once_its_driver_is_gone(
    finished: Path, spec: RunSpec, tmp_path: Path
) -> None:
    """It has the shard computed, and can reach the store; another run has it done, or is about to."""
    out = str(tmp_path / "atlas")
    plan(spec, out)
    objects, taken_over = Atlas.open(out).objects, "another run has taken it over"
    own = Lease(objects)
    with Worker(out, "cpu", lease=own.holder) as lost:
        with own:
            assert lost.process(0).lease == own.holder
        with pytest.raises(RunFailedError, match=taken_over):
            lost.process(1)
        with Lease(objects), pytest.raises(RunFailedError, match=taken_over):
            lost.process(1)
    assert Atlas.open(out).shard_names == ("part-0",)
    assert not (tmp_path / "atlas" / "samples" / "part-1.parquet").exists()
    run(out, INLINE)
    same_bytes(finished, Path(out))


def test_an_actor_that_is_late_takes_the_commit_of_another_as_its_result(
    finished: Path, spec: RunSpec, tmp_path: Path
) -> None:
    out = str(tmp_path / "atlas")
    plan(spec, out)
    with Worker(out, "cpu") as worker:
        first, second = worker.process(0, 1), worker.process(0, 2)
    assert second == first
    assert Atlas.open(out).record("part-0").attempt == 1


@pytest.fixture
def to_retry(spec: RunSpec, tmp_path: Path) -> Path:
    """An atlas in which one sample of each shard failed, and whose shards were mended since."""
    out = tmp_path / "atlas"
    whole = {}
    for index, (count, first) in enumerate(((5, 0), (7, 5), (4, 12))):
        path = tmp_path / "shards" / f"part-{index}.tar"
        whole[path] = path.read_bytes()
        members = samples(count, first)
        members[3] = (members[3][0], b"junk")
        write_tar(path, members)
    plan(spec, str(out))
    run(str(out), INLINE)
    for path, data in whole.items():
        path.write_bytes(data)
    return out


def test_during_a_retry_readers_find_a_shard_whole_the_old_one_or_the_new_one(
    to_retry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They read after each operation on the store, and a label command in the midst has all its masks."""
    after = Path(shutil.copytree(to_retry, tmp_path / "after"))
    run(str(after), INLINE, retry_failed=True)
    possible, found = [reads(to_retry, "part-1"), reads(after, "part-1")], list[int]()

    def looking(operation):
        def instead(self, *arguments):
            result = operation(self, *arguments)
            if self.url == str(to_retry):
                found.append(possible.index(reads(to_retry, "part-1")))
            return result

        return instead

    policy = Policy(name="p", methods=("legrad",), threshold=Threshold(kind="otsu"))
    commit = ShardWriter.commit

    def labelled(self: ShardWriter, *arguments):
        record = commit(self, *arguments)
        if self.shard == "part-1":
            summary = label(Atlas.open(str(to_retry)), policy, ["png"], str(to_retry.parent / "masks"))
            assert sum(summary.counts.values()) == 16
        return record

    monkeypatch.setattr(ShardWriter, "commit", labelled)
    with monkeypatch.context() as patched:
        for name in ("put", "create", "replace", "delete"):
            patched.setattr(ObjectStore, name, looking(getattr(ObjectStore, name)))
        run(str(to_retry), INLINE, retry_failed=True)
    assert found == sorted(found)
    assert set(found) == {0, 1}
    assert verify(Atlas.open(str(to_retry))).faults == []
    assert not (to_retry / "staged").exists() or not any((to_retry / "staged").iterdir())


def reads(folder: Path, name: str) -> tuple[object, ...]:
    """Samples and maps of a shard."""
    shard = Atlas.open(str(folder)).shard(name)
    return shard.samples["status"].to_pylist(), [shard.array(array).tobytes() for array in shard.run.arrays]


def test_who_holds_a_shard_that_is_replaced_is_told_to_read_it_again(to_retry: Path) -> None:
    shard = Atlas.open(str(to_retry)).shard("part-1")
    run(str(to_retry), INLINE, retry_failed=True)
    with pytest.raises(ShardReplacedError, match="was replaced while it was read; run the command again"):
        shard.maps("legrad")
    assert Atlas.open(str(to_retry)).shard("part-1").has_maps.all()


def test_a_damaged_object_is_put_right_once_its_commit_is_removed(finished: Path, tmp_path: Path) -> None:
    """Other bytes are where its own should be; they are replaced after the commit, and stay staged until then."""
    out = Path(shutil.copytree(finished, tmp_path / "damaged"))
    damaged = out / "maps.zarr" / "legrad" / "c" / "1" / "0" / "0" / "0"
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"damaged!!")
    (out / "samples" / "part-2.parquet").unlink()
    for name in ("part-1", "part-2"):
        (out / "commits" / f"{name}.json").unlink()
    run(str(out), INLINE)
    same_bytes(finished, out)
    assert verify(Atlas.open(str(out))) == verify(Atlas.open(str(finished)))
