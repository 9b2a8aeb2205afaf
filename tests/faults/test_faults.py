"""One run of which something of every kind is killed. ``make faults`` does many."""

import time
from pathlib import Path

from faults.matrix import KINDS, disturb, nodes, start, undisturbed, wait_until
from processes import actors
from support import same_bytes, samples, write_tar

from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.run import ModelSpec, RunSpec


def test_a_run_of_which_everything_is_killed_once_ends_with_the_same_bytes(
    checkpoint: ModelSpec, tmp_path: Path
) -> None:
    spec = work(tmp_path, checkpoint, tars=8)
    expected = undisturbed(spec, tmp_path / "undisturbed")
    with nodes() as cluster:
        # The node last: until its loss is noticed, the other one would do all there is.
        kinds = ("actor", "decoder", "driver", "raylet")
        report = disturb(spec, tmp_path / "atlas", expected, cluster, seed=1, kinds=kinds, pace=0.5)
    assert sorted(kind for kind, _ in report.kills) == sorted(KINDS), report


def test_a_cluster_may_come_late_grow_and_shrink(checkpoint: ModelSpec, tmp_path: Path) -> None:
    spec = work(tmp_path, checkpoint, tars=20)
    expected = undisturbed(spec, tmp_path / "undisturbed")
    out = tmp_path / "atlas"
    plan(spec, str(out))
    with nodes(0) as cluster:
        driver = start(out, cluster)
        time.sleep(6)
        assert driver.poll() is None  # nobody could be hired so far
        cluster.add()
        wait_until(lambda: Atlas.open(str(out)).committed, driver)
        cluster.add()
        wait_until(lambda: len(actors()) == 2, driver)
        cluster.kill()
        error = driver.communicate(timeout=300)[1]
    assert driver.returncode == 0, error
    assert "an actor was lost" in error
    same_bytes(expected, out)


def work(folder: Path, checkpoint: ModelSpec, tars: int) -> RunSpec:
    """Tars that take about a second each, so that a run does not end before it was disturbed."""
    for tar in range(tars):
        write_tar(folder / "shards" / f"part-{tar:02d}.tar", samples(6, 6 * tar))
    methods = ("legrad", "rise:masks=120")
    return RunSpec(shards=(str(folder / "shards" / "*.tar"),), model=checkpoint, methods=methods, batch_size=4)
