"""Run once and kill one process of every kind: actor, decoder, raylet, driver. The fault matrix does it many times."""

from pathlib import Path

import pytest
from faults.matrix import KINDS, disturb, nodes, undisturbed
from support import samples, write_tar

from schemas.run import ModelSpec, RunSpec

pytestmark = pytest.mark.soak


def test_a_run_of_which_everything_is_killed_once_ends_with_the_same_bytes(
    checkpoint: ModelSpec, tmp_path: Path
) -> None:
    for shard in range(8):  # of about a second each, so that the run does not end before it was disturbed
        write_tar(tmp_path / "shards" / f"part-{shard:02d}.tar", samples(6, 6 * shard))
    methods = ("legrad", "rise:masks=120")
    spec = RunSpec(shards=(f"{tmp_path}/shards/*.tar",), model=checkpoint, methods=methods, batch_size=4)
    expected = undisturbed(spec, tmp_path / "undisturbed")
    with nodes() as cluster:
        # The node last: until its loss is noticed, the other one would do all there is.
        kinds = ("actor", "decoder", "driver", "raylet")
        report = disturb(spec, tmp_path / "atlas", expected, cluster, seed=1, kinds=kinds, pace=0.5)
    assert sorted(kind for kind, _ in report.kills) == sorted(KINDS), report
