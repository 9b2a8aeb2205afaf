"""Methods of an atlas are ranked as they are, and none stands on a network that has learned nothing."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from support import copy_atlas, in_one_process, samples, soak_after, write_tar

from jobs.rank import _print_methods
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import read_policy
from pipeline.rank import RankOptions, rank_atlas
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.store.verify import verify
from pipeline.truth import read_truth
from schemas.errors import UsageError
from schemas.rank import RankRecord, default_folder
from schemas.run import ModelSpec, RunSpec


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    with in_one_process():
        yield


@pytest.fixture(scope="module")
def ranking(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> tuple[RankRecord, Path, list[str]]:
    """Of all images of the small demo atlas; its folder, and what was logged."""
    lines: list[str] = []
    out = tmp_path_factory.mktemp("rank") / "out"
    return rank_atlas(atlas, str(out), options=RankOptions(images=48), log=lines.append), out, lines


def test_what_is_known_of_the_demo_network(ranking: tuple[RankRecord, Path, list[str]]) -> None:
    record = ranking[0]
    order = [row.method for row in record.methods]
    assert order.index("attention") < order.index("center") < order.index("uniform")
    assert record.verdicts()["attention"] == record.verdicts()["legrad"] == "stands"
    assert {name: check.valid for name, check in record.signals.items()} == {
        "consensus": True,
        "removal": True,
        "exchange": True,
        "crop": True,
        "grid_pointing": False,
    }, "it does not recognise objects of half their size"


def test_the_record_and_the_policy_are_on_disk(ranking: tuple[RankRecord, Path, list[str]]) -> None:
    record, out, lines = ranking
    assert RankRecord.read((out / "rank.json").read_bytes(), "rank.json") == record
    policy = read_policy(out / "policy.yaml")
    assert policy.methods == record.policy
    assert "attention" in policy.methods
    assert len(lines) == 1
    cost = r"signals: 48 images, about [\d,]+ masked forwards and [\d,]+ maps, which take [\d.]+ \w+ in \d process"
    assert re.match(cost, lines[0]), "its cost is said in time before it begins"


def test_the_same_call_computes_nothing_again_and_another_draw_is_another_ranking(
    ranking: tuple[RankRecord, Path, list[str]], atlas: Atlas, tmp_path: Path
) -> None:
    record, out, _ = ranking
    lines: list[str] = []
    again = rank_atlas(atlas, str(out), options=RankOptions(images=48), log=lines.append)
    assert (again, lines) == (record, [])
    copy = shutil.copytree(out, tmp_path / "copy")
    fewer = rank_atlas(atlas, str(copy), methods=["legrad"], options=RankOptions(images=4, seed=1), log=lines.append)
    assert (fewer.images, len(lines)) == (4, 1)


@pytest.mark.parametrize("target", soak_after(1, ["predicted", "label"]))
def test_no_method_stands_on_random_weights(checkpoint: ModelSpec, tmp_path: Path, target: str) -> None:
    write_tar(tmp_path / "a.tar", samples(24))
    methods = ("attention", "legrad", "gradcam", "center", "edges")
    url = str(tmp_path / "atlas")
    plan(RunSpec(shards=(str(tmp_path / "a.tar"),), model=checkpoint, methods=methods, targets=(target,)), url)
    record = rank_atlas(run(url, INLINE), target=target)
    assert "stands" not in record.verdicts().values()
    assert not any(check.valid for check in record.signals.values())
    assert record.policy == ()
    assert not Path(url, "rank", target, "policy.yaml").exists()


def test_truth_chooses_no_policy_where_all_maps_are_constant(world: SyntheticDataset, tmp_path: Path) -> None:
    weights = timm.create_model("test_vit", num_classes=10).state_dict()
    save_file({name: torch.zeros_like(values) for name, values in weights.items()}, tmp_path / "zero.safetensors")
    model = ModelSpec(name="test_vit", checkpoint=str(tmp_path / "zero.safetensors"))
    shard = world.shards.replace("{00..01}", "00")
    plan(RunSpec(shards=(shard,), model=model, methods=("attention", "legrad", "center")), str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    record = rank_atlas(atlas, options=RankOptions(6, truth=read_truth(world.truth)))
    assert record.verdicts() == {"attention": "fails", "legrad": "fails"}
    assert (record.policy, record.policy_score) == ((), None)
    assert not (tmp_path / "atlas" / "rank" / "label" / "policy.yaml").exists()


def test_a_ranking_in_its_atlas_is_no_fault_of_that(
    ranking: tuple[RankRecord, Path, list[str]], atlas: Atlas, tmp_path: Path
) -> None:
    copy = copy_atlas(atlas.objects.url, tmp_path / "atlas")
    shutil.copytree(ranking[1], copy / default_folder(ranking[0].target))
    assert verify(Atlas.open(str(copy))).faults == []


def test_what_cannot_be_compared_is_refused(finished: Path) -> None:
    with pytest.raises(UsageError, match="has no method to compare with; add some: vitatlas extend"):
        rank_atlas(Atlas.open(str(finished)), methods=["random"])


def test_the_interval_of_a_negative_signal_can_be_read(
    ranking: tuple[RankRecord, Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    record = ranking[0]
    (name, *_), row = (name for name, check in record.signals.items() if check.valid), record.methods[0]
    negative = row.signals[name].model_copy(update={"mean": -0.1, "low": -0.17, "high": -0.02})
    _print_methods(record.model_copy(update={"methods": (row.model_copy(update={"signals": {name: negative}}),)}))
    assert "−0.10 (−0.17 to −0.02)" in capsys.readouterr().out


def test_a_table_of_signals_and_one_of_methods_are_printed(vitatlas, atlas: Atlas, tmp_path: Path) -> None:
    code, out, err = vitatlas("rank", atlas.objects.url, "--images", 8, "--out", tmp_path / "rank")
    assert code == 0, err
    assert "the four images of a mosaic" in out
    assert f"written  {tmp_path / 'rank'}" in out
    code, out, err = vitatlas("rank", atlas.objects.url, "--images", 8, "--out", tmp_path / "rank", "--json")
    assert (code, json.loads(out)["images"]) == (0, 8)
    rows = json.loads(out)["methods"]
    assert np.all(np.diff([row["rank"] for row in rows]) <= 0)
    if (tmp_path / "rank" / "policy.yaml").exists():
        assert yaml.safe_load((tmp_path / "rank" / "policy.yaml").read_text())["methods"] == json.loads(out)["policy"]
