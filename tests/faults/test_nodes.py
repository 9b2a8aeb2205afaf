"""Several nodes with GPUs, as far as Ray knows: who works where, and what becomes of it as nodes go and come."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import on_gpus
from faults.matrix import Nodes, nodes, start, undisturbed, wait_until
from support import same_bytes, samples, write_tar

from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.run import ModelSpec, RunSpec

pytestmark = pytest.mark.soak


_TARS, _WINDOW = 16, 2
"""In all, and held by an actor at a time."""


@pytest.fixture(scope="module")
def spec(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    folder = tmp_path_factory.mktemp("work")
    for shard in range(_TARS):
        write_tar(folder / f"part-{shard:02d}.tar", samples(2, 2 * shard))
    return RunSpec(shards=(f"{folder}/*.tar",), model=checkpoint, methods=("legrad",))


@pytest.fixture(scope="module")
def expected(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return undisturbed(spec, tmp_path_factory.mktemp("expected") / "atlas")


@pytest.fixture
def cluster() -> Iterator[Nodes]:
    """A head, and nodes to come."""
    with nodes(0) as cluster:
        yield cluster


def notes(folder: Path) -> list[dict[str, Any]]:
    """What actors have begun, in order."""
    path = folder / "notes"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def places(folder: Path) -> set[tuple[str, str]]:
    return {(note["node"], note["gpu"]) for note in notes(folder)}


def test_nodes_may_come_late_each_gpu_has_an_actor_a_lost_node_costs_what_it_held_and_one_that_joins_gets_that(
    spec: RunSpec, expected: Path, cluster: Nodes, tmp_path: Path
) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))
    driver = start(out, cluster, "--device", "cuda", program=(on_gpus.__file__, str(tmp_path)))
    wait_until((out / "lease.json").exists, driver)
    time.sleep(6)
    assert driver.poll() is None  # it has begun, and nobody could be hired so far
    for gpus in (1, 1, 2):
        cluster.add(gpus)
    wait_until(lambda: len(places(tmp_path)) == 4, driver)
    lost, other, double = cluster.ids
    assert places(tmp_path) == {(lost, "0"), (other, "0"), (double, "0"), (double, "1")}
    assert len({note["actor"] for note in notes(tmp_path)}) == 4
    wait_until(lambda: len(Atlas.open(str(out)).shard_names) == on_gpus.FREE, driver)

    cluster.kill()
    cluster.add(1)
    new = cluster.ids[-1]
    wait_until(lambda: new in {note["node"] for note in notes(tmp_path)}, driver)
    (tmp_path / "go on").touch()
    error = driver.communicate(timeout=120)[1]
    assert driver.returncode == 0, error
    assert "an actor was lost" in error
    commits = list(Atlas.open(str(out)).records())
    again = {commit.shard_index for commit in commits if commit.attempt > 1}
    begun = [note["shard_index"] for note in notes(tmp_path)]
    at = next(
        note["shard_index"] for note in notes(tmp_path) if note["node"] == lost and note["shard_index"] >= on_gpus.FREE
    )
    assert at in again
    assert len(again) <= _WINDOW
    assert sorted(begun) == sorted([*range(_TARS), at])  # nothing else was begun twice
    same_bytes(expected, out)


def test_when_the_head_is_lost_the_job_that_is_tried_again_goes_on(
    spec: RunSpec, expected: Path, cluster: Nodes, tmp_path: Path
) -> None:
    """The driver runs on the head and goes with it, as in a RayJob, whose next attempt is another cluster."""
    out = tmp_path / "atlas"
    plan(spec, str(out))
    cluster.add(1)
    driver = start(out, cluster, "--device", "cuda", program=(on_gpus.__file__, str(tmp_path)))
    wait_until(lambda: len(Atlas.open(str(out)).shard_names) == on_gpus.FREE, driver)
    cluster.kill_head()
    driver.kill()
    driver.communicate()
    kept = {path: path.stat().st_mtime_ns for path in (out / "commits").iterdir()}
    assert len(kept) == on_gpus.FREE
    (tmp_path / "go on").touch()
    with nodes(0) as others:
        others.add(1)
        again = start(out, others, "--device", "cuda", program=(on_gpus.__file__, str(tmp_path)))
        error = again.communicate(timeout=120)[1]
    assert again.returncode == 0, error
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    same_bytes(expected, out)
