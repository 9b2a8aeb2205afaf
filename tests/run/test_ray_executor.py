"""Real Ray, real actors: the atlas is the one that this process makes. (Kills are in ``tests/faults``.)"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from processes import actors
from support import same_bytes, samples, write_tar

from pipeline.run import INLINE, ExecutionOptions, ray_executor, run
from pipeline.run.plan import plan
from pipeline.run.ray_executor import cluster_capacity, ray_cluster
from pipeline.run.worker import Worker
from pipeline.store import Atlas
from schemas.errors import RunFailedError, SpecMismatchError, UsageError
from schemas.run import RunSpec

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def atlas(spec: RunSpec, tmp_path: Path) -> Atlas:
    """The atlas of the run, computed by two actors."""
    plan(spec, str(tmp_path / "atlas"))
    return run(str(tmp_path / "atlas"))


def test_actors_give_the_bytes_of_this_process(finished: Path, atlas: Atlas) -> None:
    same_bytes(finished, Path(atlas.objects.url))
    assert all(commit.attempt == 1 for commit in atlas.commits.values())


def drive(out: Path, *options: str) -> "subprocess.Popen[str]":
    """The command, in a process of its own, on the same cluster, on which nobody else is at work."""
    while actors():
        time.sleep(0.05)
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "jobs.cli", "run", str(out), "--address", address, *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.soak
def test_a_broken_tar_fails_the_run_at_its_end(spec: RunSpec, tmp_path: Path) -> None:
    plan(spec, str(tmp_path / "atlas"))
    broken = tmp_path / "shards" / "part-1.tar"
    broken.write_bytes(broken.read_bytes()[:6000])
    with pytest.raises(RunFailedError, match=r"1 of 3 shards could not be done:\n .*part-1.tar: it is truncated"):
        run(str(tmp_path / "atlas"), ExecutionOptions(actors=1))
    assert list(Atlas.open(str(tmp_path / "atlas")).commits) == ["part-0", "part-2"]


@pytest.mark.soak
def test_a_users_mistake_comes_out_of_an_actor_as_it_is(spec: RunSpec, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    path = tmp_path / "mine.safetensors"
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), path)
    plan(
        spec.model_copy(update={"model": spec.model.model_copy(update={"checkpoint": str(path)})}), str(tmp_path / "a")
    )
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), path)
    with pytest.raises(SpecMismatchError, match=r"model\.weights is 'sha256:"):
        run(str(tmp_path / "a"), ExecutionOptions(actors=1))


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_tars_in_work_be_finished_and_exits_with_75(
    finished: Path, spec: RunSpec, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))
    driver = drive(out, "--actors", "1")
    while not actors():
        assert driver.poll() is None, driver.stderr.read()
        time.sleep(0.01)
    driver.send_signal(number)
    _, error = driver.communicate(timeout=120)
    done = len(Atlas.open(str(out)).commits)
    assert driver.returncode == (75 if done < 3 else 0)
    if done < 3:
        assert re.search(r"stopping: [01] shards in progress have 20 s; interrupt again to drop them", error)
        assert f"stopped early, {3 - done} shards are left; resume with: vitatlas run {out} --address" in error
    assert not (out / "lease.json").exists()
    run(str(out), INLINE)
    same_bytes(finished, out)


@pytest.mark.soak
def test_a_tar_that_takes_too_long_goes_to_another_actor_and_is_set_aside_at_last(
    spec: RunSpec, tmp_path: Path
) -> None:
    """Its decoder waits for a pipe that nobody writes to."""
    out = tmp_path / "atlas"
    pipe = write_tar(tmp_path / "shards" / "part-1.tar", samples(7, 5))
    plan(spec, str(out))
    pipe.unlink()
    os.mkfifo(pipe)
    with pytest.raises(RunFailedError, match=r"part-1.tar: 3 actors were lost over it; the last: not done after \d+ s"):
        run(str(out), ExecutionOptions(actors=1, timeout=3))
    assert list(Atlas.open(str(out)).commits) == ["part-0", "part-2"]


@pytest.mark.soak
def test_an_actor_that_cannot_load_or_trips_is_replaced_and_ends_nothing(
    finished: Path, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))

    class Tripping(ray_executor._ShardActor):
        """Of the first, the disk fails while it loads; of the second, the GPU at its first shard."""

        def prepare(self, *arguments):
            if self.first("loaded"):
                raise OSError(5, "Input/output error")
            return super().prepare(*arguments)

        def process(self, shard_index: int, attempt: int):
            if self.first("worked"):
                raise RuntimeError("an error of the GPU")
            return super().process(shard_index, attempt)

        def first(self, what: str) -> bool:
            try:
                (tmp_path / what).touch(exist_ok=False)
            except FileExistsError:
                return False
            return True

    monkeypatch.setattr(ray_executor, "_ShardActor", Tripping)
    atlas = run(str(out), ExecutionOptions(actors=1))
    assert max(commit.attempt for commit in atlas.records()) == 2
    same_bytes(finished, out)


def test_an_error_of_every_tar_ends_the_run(spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors get ready each time, and trip each time."""

    class Tripping(ray_executor._ShardActor):
        def prepare(self, *arguments):
            return []

        def process(self, shard_index: int, attempt: int):
            raise RuntimeError("an error of this program")

    monkeypatch.setattr(ray_executor, "_ShardActor", Tripping)
    monkeypatch.setattr(ray_executor, "_MAX_LOSSES", 2)
    plan(spec, str(tmp_path / "atlas"))
    says = r"2 actors in a row were lost before a shard was done; the last: RuntimeError: an error of this program"
    with pytest.raises(RunFailedError, match=says):
        run(str(tmp_path / "atlas"), ExecutionOptions(actors=1))


def test_an_address_that_is_none_is_a_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = os.getcwd()
    with pytest.raises(UsageError, match=r"--address foo: .*; use local, auto or HOST:PORT"), ray_cluster("foo"):
        pass
    assert os.getcwd() == before


def test_a_folder_of_temporary_files_that_is_too_long_for_ray_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**_: object) -> None:
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /long")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UsageError, match=r"too long a name for the sockets of Ray; set TMPDIR"), ray_cluster("local"):
        pass


@pytest.mark.parametrize(("variable", "joined"), [("", "local"), ("auto", "auto")])
def test_without_an_address_no_cluster_is_joined_that_the_environment_does_not_name(
    variable: str, joined: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: asked.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", variable)
    with ray_cluster(None):
        pass
    assert asked == [joined]


def test_where_no_actor_gets_a_place_the_run_says_so(spec: RunSpec, tmp_path: Path) -> None:
    plan(spec, str(tmp_path / "atlas"))
    with pytest.raises(RunFailedError, match=r"no actor started .* within 3 s; each needs one GPU, and of those"):
        run(str(tmp_path / "atlas"), ExecutionOptions(device="cuda", no_actor_timeout=3))


def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address, variable in (("127.0.0.1:1", ""), (None, "127.0.0.1:1")):
        monkeypatch.setenv("RAY_ADDRESS", variable)
        with pytest.raises(RunFailedError, match=r"no Ray cluster at 127.0.0.1:1"), ray_cluster(address):
            pass


def test_one_actor_for_each_core_or_gpu() -> None:
    assert cluster_capacity() == (2, False)


def test_workers_compute_in_one_thread(spec: RunSpec, tmp_path: Path) -> None:
    import torch

    plan(spec, str(tmp_path / "atlas"))
    Worker(str(tmp_path / "atlas"))
    assert torch.get_num_threads() == 1


@pytest.mark.soak
def test_no_actor_decodes_on_a_cpu_what_a_gpu_was_to_decode(ray_cluster: None, spec: RunSpec, tmp_path: Path) -> None:
    out = str(tmp_path / "atlas")
    plan(spec.model_copy(update={"decode": "gpu"}), out)
    with pytest.raises(UsageError, match="planned with --decode gpu, and there is no GPU here"):
        run(out, ExecutionOptions(actors=1))
    atlas = run(out, ExecutionOptions(actors=1, device="cpu"))
    assert {commit.seconds["decode"] > 0 for commit in atlas.records()} == {True}
