"""What is asked of a store grows with the shards in a straight line: nothing is listed or parsed for each of them."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from operations import counted
from support import samples, write_tar

from pipeline.label import label
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.score import score
from pipeline.store import Atlas
from pipeline.store.verify import verify
from pipeline.truth import read_truth
from schemas.policy import Policy, Threshold
from schemas.run import ModelSpec, RunSpec
from schemas.run_record import RunRecord

SIZES = (2, 3, 4)
POLICY = Policy(name="otsu", methods=("center",), threshold=Threshold(kind="otsu"))


@pytest.fixture(scope="module")
def atlases(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Atlases of 2, 3 and 4 shards."""
    found = {}
    for size in SIZES:
        folder = tmp_path_factory.mktemp(f"of-{size}")
        for shard in range(size):
            write_tar(folder / f"{shard}.tar", samples(2, 2 * shard))
        spec = RunSpec(shards=(f"{folder}/*.tar",), model=checkpoint, methods=("center",), targets=("label",))
        plan(spec, f"{folder}/atlas")
        run(f"{folder}/atlas", INLINE)
        boxes = [f"s{number:04d},5,5,20,20" for number in range(2 * size)]
        (folder / "boxes.csv").write_text("\n".join(["image_id,x0,y0,x1,y1", *boxes]))
        found[size] = folder / "atlas"
    return found


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counted, with what is done for each shard in this process; how often a plan was parsed, too."""
    counts = counted(monkeypatch.setattr)
    plain = RunRecord.read

    def reading(data: Any, source: str) -> RunRecord:
        counts["plans parsed"] += 1
        return plain(data, source)

    monkeypatch.setattr(RunRecord, "read", reading)
    return counts


STAGES: dict[str, Callable[[Path, Any], object]] = {
    "resume": lambda url, _: run(str(url), INLINE),
    "status": lambda url, vitatlas: vitatlas("status", url),
    "verify": lambda url, _: verify(Atlas.open(str(url))),
    "label": lambda url, _: label(Atlas.open(str(url)), POLICY, ["png", "coco"], f"{url}/labels/otsu"),
    "label again": lambda url, _: label(Atlas.open(str(url)), POLICY, ["png", "coco"], f"{url}/labels/otsu"),
    "score": lambda url, _: score(Atlas.open(str(url)), read_truth(url.parent / "boxes.csv")),
    "score again": lambda url, _: score(Atlas.open(str(url)), read_truth(url.parent / "boxes.csv")),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_asks_of_each_tar_the_same_however_many_there_are(
    stage: str, atlases: dict[int, Path], operations: Counter[str], vitatlas: Any
) -> None:
    made = []
    for url in atlases.values():
        operations.clear()
        STAGES[stage](url, vitatlas)
        made.append(Counter(operations))
    small, middle, large = made
    for name in large:
        assert large[name] - middle[name] == middle[name] - small[name], (name, made)
    assert large["list"] == small["list"], made
    assert large["plans parsed"] == small["plans parsed"], made
