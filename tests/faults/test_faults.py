"""One run of which something of every kind is killed. ``make faults`` does many."""

from pathlib import Path

from faults.matrix import KINDS, disturb, nodes, undisturbed
from support import samples, write_tar

from schemas.run import ModelSpec, RunSpec


def test_a_run_of_which_everything_is_killed_once_ends_with_the_same_bytes(
    checkpoint: ModelSpec, tmp_path: Path
) -> None:
    for tar in range(6):
        write_tar(tmp_path / "shards" / f"part-{tar}.tar", samples(6, 6 * tar))
    spec = RunSpec(shards=(str(tmp_path / "shards" / "*.tar"),), model=checkpoint, methods=("legrad",), batch_size=4)
    expected = undisturbed(spec, tmp_path / "undisturbed")
    with nodes() as cluster:
        report = disturb(spec, tmp_path / "atlas", expected, cluster, seed=1, kinds=KINDS)
    assert sorted(kind for kind, _ in report.kills) == sorted(KINDS), report
