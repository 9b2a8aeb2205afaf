"""What stands in the way of a whole run: a full disk, a closed folder, another run, a network that fails."""

import errno
import os
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
from support import same_bytes

from pipeline.read import shard_reader
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.run.worker import Worker
from pipeline.store import Atlas, Lease, ShardWriter, lease
from pipeline.store.verify import verify
from schemas.errors import RunFailedError, SpecMismatchError
from schemas.run import RunSpec

plan_module = sys.modules["pipeline.run.plan"]
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
CLOSED = PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize(
    ("module", "call", "error", "says"),
    [
        (os, "fsync", FULL, "No space left on device"),
        pytest.param(os, "link", CLOSED, "Permission denied", marks=pytest.mark.soak),
    ],
)
@pytest.mark.usefixtures("computed_once")
def test_a_disk_that_refuses_ends_the_run_and_once_mended_it_goes_on(
    finished: Path, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module, call: str, error, says: str
) -> None:
    """From the k-th write on, for some k of all stages; the disk stays so, and the run does not try again and again."""
    real = getattr(module, call)
    for k in (1, 5, 15, 30):
        out, calls = tmp_path / f"atlas-{k}", count(1)
        plan(spec, str(out))

        def refusing(*arguments, calls=calls, k=k, **options):
            if next(calls) >= k:
                raise error
            return real(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(module, call, refusing)
            with pytest.raises(
                RunFailedError, match=rf"cannot write .*: {says}; fix that and run the same command again"
            ):
                run(str(out), INLINE)
        assert next(calls) <= k + 3
        run(str(out), INLINE)
        same_bytes(finished, out)


@pytest.mark.skipif(os.geteuid() == 0, reason="a superuser may write everywhere")
def test_a_folder_that_is_closed_ends_the_run(finished: Path, spec: RunSpec, tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))
    out.chmod(0o555)
    with pytest.raises(RunFailedError, match=r"cannot write .*: Permission denied"):
        run(str(out), INLINE)
    out.chmod(0o755)
    run(str(out), INLINE)
    same_bytes(finished, out)


def test_a_second_run_is_refused_while_the_first_goes_on(
    finished: Path, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.1)
    out = tmp_path / "atlas"
    plan(spec, str(out))
    with (
        Lease(Atlas.open(str(out)).objects),
        pytest.raises(RunFailedError, match=r"a run on .* is writing to it; wait for its end, or stop it and resume"),
    ):
        run(str(out), INLINE)
    run(str(out), INLINE)
    same_bytes(finished, out)
    with Lease(Atlas.open(str(out)).objects), pytest.raises(RunFailedError, match="is writing to it"):
        run(str(out), INLINE)


@pytest.mark.soak
def test_two_runs_that_know_nothing_of_each_other_write_the_same(finished: Path, spec: RunSpec, tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))
    code = (
        "import sys; from pipeline.run import ExecutionOptions, INLINE, run; from pipeline.store import lease;"
        "from pipeline.store.lease import Lease; Lease.__enter__ = lambda self: vars(self).update(holder='') or self;"
        "Lease.__exit__ = lambda self, *rest: None; run(sys.argv[1], INLINE)"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, out], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [(each.communicate()[1], each.returncode) for each in runs]
    assert [code for _, code in said] == [0, 0], said
    same_bytes(finished, out)


def test_a_network_that_fails_for_a_while_is_tried_again_and_one_that_always_fails_sets_the_tar_aside(
    finished: Path, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for failures in (2, 10**6):
        out, left, real = tmp_path / f"atlas-{failures}", failures, shard_reader.read_samples

        def failing(shard, room, *rest, real=real):
            nonlocal left
            if shard.name == "part-1" and left:
                left -= 1
                raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
            yield from real(shard, room, *rest)

        plan(spec, str(out))
        monkeypatch.setattr(sys.modules["pipeline.read.loader"], "read_samples", failing)
        if failures == 2:
            atlas = run(str(out), INLINE)
            assert atlas.commits["part-1"].attempt == 3
            same_bytes(finished, out)
        else:
            with pytest.raises(RunFailedError, match=r"1 of 3 shards could not be done:\n .*part-1.tar: .*timed out"):
                run(str(out), INLINE)
            assert Atlas.open(str(out)).quarantined() == {"part-1": "[Errno 110] Connection timed out"}


def test_what_another_run_undid_while_the_lease_was_waited_for_is_done(
    finished: Path, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the other way round: what it did is not done again."""
    out, enter = tmp_path / "atlas", Lease.__enter__
    shutil.copytree(finished, out)
    (out / "commits" / "part-0.json").unlink()

    def late(self: Lease) -> Lease:
        shutil.copy(finished / "commits" / "part-0.json", out / "commits")
        (out / "commits" / "part-1.json").unlink()
        return enter(self)

    monkeypatch.setattr(Lease, "__enter__", late)
    before = (out / "commits" / "part-0.json", (finished / "commits" / "part-0.json").read_text())
    run(str(out), INLINE)
    assert before[0].read_text() == before[1]
    same_bytes(finished, out)


def test_a_commit_that_vanishes_during_a_run_is_no_success(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, commit = tmp_path / "atlas", ShardWriter.commit
    plan(spec, str(out))

    def vanishing(self: ShardWriter, *arguments):
        record = commit(self, *arguments)
        (out / "commits" / "part-0.json").unlink(missing_ok=True)
        return record

    monkeypatch.setattr(ShardWriter, "commit", vanishing)
    with pytest.raises(RunFailedError, match=r"shards not done: 1, the first is part-0; resume with: vitatlas run"):
        run(str(out), INLINE)


def test_of_two_plans_at_once_one_is_made_and_the_other_refused(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "atlas")
    with monkeypatch.context() as patched:
        scan = plan_module.count_samples

        def slow(*arguments):
            with monkeypatch.context() as inner:
                inner.setattr(plan_module, "count_samples", scan)
                plan(spec, out)  # the other is quicker
            return scan(*arguments)

        patched.setattr(plan_module, "count_samples", slow)
        with pytest.raises(SpecMismatchError, match="seed is 0, not 7"):
            plan(spec.model_copy(update={"seed": 7}), out)
    assert verify(Atlas.open(out)).faults == []


def test_an_error_of_another_kind_sets_its_tar_aside_and_one_of_every_tar_ends_the_run(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain = Worker.explain
    for broken in ((1,), (0, 1, 2)):
        out = str(tmp_path / f"atlas-{len(broken)}")
        plan(spec, out)

        def failing(self: Worker, shard_index: int, wanted=None, stored=None, broken=broken):
            if shard_index in broken:
                raise RuntimeError("an error of the GPU")
            return explain(self, shard_index, wanted)

        monkeypatch.setattr(Worker, "explain", failing)
        with pytest.raises(RunFailedError if len(broken) == 1 else RuntimeError, match="an error of the GPU"):
            run(out, INLINE)
        assert len(Atlas.open(out).committed) == 3 - len(broken)


@pytest.mark.soak
def test_an_exit_waits_for_no_background_thread(spec: RunSpec, tmp_path: Path) -> None:
    """Interrupted while a picture is being decoded for ever, and while the lease is being kept."""
    plan(spec, str(tmp_path / "atlas"))
    code = (
        "import sys, time; from pipeline.read import decoder_pool; from pipeline.run import INLINE, run;"
        "decoder_pool.decode_image = lambda data, frame: (print('decoding', flush=True), time.sleep(20));"
        "from jobs.cli import main; sys.argv = ['vitatlas', 'run', sys.argv[1], '--executor', 'inline']; main()"
    )
    job = subprocess.Popen([sys.executable, "-c", code, tmp_path / "atlas"], stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "decoding\n"
    begun = time.monotonic()
    job.terminate()
    job.communicate()
    assert job.returncode == 75
    assert time.monotonic() - begun < 5
