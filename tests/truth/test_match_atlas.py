"""Each command that reads truth says that it may mean something else, and refuses what it cannot match."""

from collections.abc import Callable
from pathlib import Path

import pytest
from score.builders import boxed, change, first, of_keys
from support import in_one_process

from pipeline.audit.audit_atlas import AuditOptions, audit_atlas
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import CalibrationSource, label
from pipeline.rank import RankOptions, rank_atlas
from pipeline.score import score
from pipeline.store import Atlas
from pipeline.truth import TruthSet, read_truth
from pipeline.truth.match_atlas import match_truth
from schemas.errors import UsageError
from schemas.policy import Policy, Threshold
from schemas.run import RunSpec

Log = Callable[[str], None]
CALIBRATED = Policy(name="p", methods=("legrad",), threshold=Threshold(kind="calibrated"))
COMMANDS: dict[str, Callable[[Atlas, TruthSet, str, Log], object]] = {
    "score": lambda atlas, truth, out, log: score(atlas, truth, methods=["center"], subset=True, out=out, log=log),
    "rank": lambda atlas, truth, out, log: rank_atlas(
        atlas, out, methods=["legrad"], options=RankOptions(2, truth=truth), log=log
    ),
    "label": lambda atlas, truth, out, log: label(atlas, CALIBRATED, ["png"], out, CalibrationSource(truth), log=log),
    "audit": lambda atlas, truth, out, log: audit_atlas(
        atlas, out, methods=["legrad"], truth=truth, audit_options=AuditOptions(0, 0, 0, False), log=log
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_unlikely_truth_is_said_once(atlas: Atlas, world: SyntheticDataset, tmp_path: Path, command: str) -> None:
    def add_a_class(content: dict) -> None:
        first(12)(content)
        content["annotations"].append(content["annotations"][0] | {"id": 999, "category_id": 99})

    said: list[str] = []
    with in_one_process():
        truth = read_truth(change(world, tmp_path, add_a_class))
        COMMANDS[command](atlas, truth, str(tmp_path / "out"), said.append)
    assert sum(line.startswith("1 image has objects of several classes in truth.json") for line in said) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_truth_of_two_samples_is_refused(spec: RunSpec, tmp_path: Path, command: str) -> None:
    methods = ("legrad", "center")
    atlas = of_keys(spec.model_copy(update={"methods": methods}), tmp_path, {"a": ["x/s0", "s1"], "b": ["x/s0", "s2"]})
    truth = read_truth(boxed(tmp_path / "truth.json", ["x/s0.jpg", "s1.jpg", "s2.jpg"]))
    with in_one_process(), pytest.raises(UsageError, match="x/s0 would be the truth of x/s0 in b and x/s0 in a"):
        COMMANDS[command](atlas, truth, str(tmp_path / "out"), lambda line: None)


def test_a_part_has_the_images_of_its_shard_and_another_size_is_refused(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    parts = match_truth(atlas, read_truth(change(world, tmp_path, first(30))), "label")
    assert [len(part) for part in parts.values()] == [24, 6]
    other = read_truth(change(world, tmp_path, lambda content: content["images"][5].update(width=7)))
    with pytest.raises(UsageError, match=r"scene_000005: is \d+×\d+ pixels, but 7×\d+ in the truth"):
        match_truth(atlas, other, "label")
