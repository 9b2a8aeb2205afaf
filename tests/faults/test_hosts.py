"""Several hosts with a network between them, from which one is cut off and which another joins."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import hosts, on_gpus
from faults.hosts import Hosts
from faults.matrix import undisturbed, wait_until
from support import same_bytes, samples, write_tar

from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.run import ModelSpec, RunSpec

_TARS, _WINDOW = 12, 2
"""In all, and held by an actor at a time."""
_LACKING = hosts.lacking()

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(_LACKING is not None, reason=f"no hosts can be made on this machine: {_LACKING}"),
]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Hosts]:
    """A head, and two hosts to come with a GPU each."""
    found = Hosts(tmp_path)
    try:
        yield found
    finally:
        found.stop()


def notes(folder: Path) -> list[dict[str, Any]]:
    """What actors have begun, in order."""
    path = folder / "notes"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def held_by(host: str, folder: Path) -> set[int]:
    """What it has begun and may not go on with."""
    return {
        note["shard_index"] for note in notes(folder) if note["host"] == host and note["shard_index"] >= on_gpus.FREE
    }


def test_a_host_that_is_cut_off_costs_what_it_held_and_one_that_joins_gets_that(
    checkpoint: ModelSpec, three: Hosts, tmp_path: Path
) -> None:
    cut_off, _ = three.add(), three.add()
    for shard in range(_TARS):
        write_tar(tmp_path / "shards" / f"part-{shard:02d}.tar", samples(2, 2 * shard))
    spec = RunSpec(shards=(f"{tmp_path}/shards/*.tar",), model=checkpoint, methods=("legrad",))
    expected, out = undisturbed(spec, tmp_path / "expected"), tmp_path / "atlas"
    plan(spec, str(out))
    three.wait()
    command = [sys.executable, on_gpus.__file__, str(tmp_path), "run", str(out), "--address", three.address]
    driver = subprocess.Popen(
        three.on_head([*command, "--decode-processes", "1", "--patience", "300"]),
        env=three.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: len({note["host"] for note in notes(tmp_path)}) == 2, driver)
        wait_until(lambda: len(Atlas.open(str(out)).shard_names) == on_gpus.FREE, driver)
        wait_until(
            lambda: any(note["host"] == cut_off and note["shard_index"] >= on_gpus.FREE for note in notes(tmp_path)),
            driver,
        )
        three.pull_cable(cut_off)
        joins = three.add()
        wait_until(lambda: joins in {note["host"] for note in notes(tmp_path)}, driver)
        three.switch_off(cut_off)
        (tmp_path / "go on").touch()
        error = driver.communicate(timeout=300)[1]
    finally:
        driver.kill()
    assert driver.returncode == 0, error
    assert "an actor was lost" in error
    begun = Counter(note["shard_index"] for note in notes(tmp_path))
    twice = {shard for shard, times in begun.items() if times > 1}
    held = held_by(cut_off, tmp_path)
    assert set(begun) == set(range(_TARS))
    assert twice == held  # nothing else was begun again
    again = {commit.shard_index for commit in Atlas.open(str(out)).records() if commit.attempt > 1}
    assert held <= again
    assert len(again) <= _WINDOW
    same_bytes(expected, out)
