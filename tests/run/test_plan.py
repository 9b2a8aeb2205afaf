"""A plan freezes what decides the maps, and refuses to become another."""

import json
from pathlib import Path

import pytest
from support import FAST, samples, write_tar

from pipeline.demo.train_model import MODEL
from pipeline.run.plan import plan
from schemas.errors import SpecMismatchError, UsageError
from schemas.run import ModelSpec, RunSpec
from schemas.run_record import RunRecord


def test_the_slot_is_the_largest_tar_rounded_up_to_the_chunk(spec: RunSpec, tmp_path: Path) -> None:
    run = plan(spec, str(tmp_path / "atlas"))
    assert (run.slot, run.chunk, run.samples, run.rows) == (7, 7, 16, 21)
    assert [(shard.name, shard.samples) for shard in run.shards] == [("part-0", 5), ("part-1", 7), ("part-2", 4)]


def test_a_large_tar_has_several_chunks(checkpoint: ModelSpec, tmp_path: Path) -> None:
    members = [(f"s{i}.cls", b"1") for i in range(300)]
    shard = str(write_tar(tmp_path / "large.tar", members))
    run = plan(RunSpec(shards=(shard,), model=checkpoint, methods=FAST), str(tmp_path / "atlas"))
    assert (run.slot, run.chunk) == (512, 256)


def test_run_json_is_all_that_is_needed_to_know_the_run(spec: RunSpec, tmp_path: Path) -> None:
    run = plan(spec, str(tmp_path / "atlas"))
    read = RunRecord.read((tmp_path / "atlas" / "run.json").read_bytes(), "run.json")
    assert read == run
    assert read.run_hash == read.sealed().run_hash
    legrad = {"layers": "all", "score": "logit", "no_final_norm": False, "empty_prompt": False}
    assert read.methods == {"attention": {}, "legrad": legrad, "random": {}}
    assert read.versions["torch"]


def test_planning_again_changes_nothing(spec: RunSpec, tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    plan(spec, str(out))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_the_folder_that_one_stands_in_is_no_part_of_the_run(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan(spec, str(tmp_path / "atlas"))
    monkeypatch.chdir(tmp_path)
    assert plan(spec, str(tmp_path / "atlas")) == run
    relative = spec.model_copy(update={"shards": ("part-{0..2}.tar",), "root": "shards"})
    assert plan(relative, "atlas") == run


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"geometry": "crop"}, "geometry is 'squash', not 'crop'"),
        ({"batch_size": 8, "seed": 1}, "batch_size is 4, not 8; seed is 0, not 1"),
        ({"methods": ("attention",)}, r"methods is \['attention', 'legrad', 'random'\], not \['attention'\]"),
        ({"targets": ("label",)}, r"targets is \['label', 'predicted'\], not \['label'\]"),
        ({"model": ModelSpec(name="test_vit2", pretrained=True)}, "model.name is 'test_vit', not 'test_vit2'"),
    ],
)
def test_another_spec_is_refused_with_the_fields_that_differ(spec: RunSpec, tmp_path: Path, change, says: str) -> None:
    out = str(tmp_path / "atlas")
    plan(spec, out)
    with pytest.raises(SpecMismatchError, match=says):
        plan(spec.model_copy(update=change), out)


def test_a_glob_that_matches_other_tars_now_is_refused(spec: RunSpec, tmp_path: Path) -> None:
    spec = spec.model_copy(update={"shards": (str(tmp_path / "shards" / "*.tar"),)})
    plan(spec, str(tmp_path / "atlas"))
    write_tar(tmp_path / "shards" / "part-9.tar", samples(1))
    with pytest.raises(SpecMismatchError, match="the shards match 4 shards, not the 3 that were planned"):
        plan(spec, str(tmp_path / "atlas"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"methods": ("nonsense",)}, "there is no method 'nonsense'"),
        ({"shards": ("nowhere.tar",)}, "no such shard"),
        ({"model": ModelSpec(name="test_vit", checkpoint="no.safetensors")}, "no such file"),
    ],
)
def test_a_mistake_leaves_nothing_behind(spec: RunSpec, tmp_path: Path, change, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plan(spec.model_copy(update=change), str(tmp_path / "atlas"))
    assert not (tmp_path / "atlas").exists()


def test_a_broken_tar_is_planned_with_its_problem_and_all_broken_is_refused(spec: RunSpec, tmp_path: Path) -> None:
    broken = tmp_path / "shards" / "part-1.tar"
    broken.write_bytes(broken.read_bytes()[:5000])
    run = plan(spec, str(tmp_path / "atlas"))
    assert [shard.fault for shard in run.shards] == [None, "it is truncated", None]
    only = spec.model_copy(update={"shards": (str(broken),)})
    with pytest.raises(UsageError, match=r"part-1.tar: it is truncated; no shard can be used"):
        plan(only, str(tmp_path / "other"))


def test_no_methods_means_all_that_are_usual(spec: RunSpec, tmp_path: Path) -> None:
    run = plan(spec.model_copy(update={"methods": ()}), str(tmp_path / "atlas"))
    assert {"attention", "legrad", "reciprocam", "center", "edges"} <= set(run.methods)
    assert plan(spec.model_copy(update={"methods": ()}), str(tmp_path / "atlas")) == run


def test_options_of_a_method_are_kept_with_its_array(spec: RunSpec, tmp_path: Path) -> None:
    plan(spec.model_copy(update={"methods": ("reciprocam:kernel=box",)}), str(tmp_path / "atlas"))
    metadata = json.loads((tmp_path / "atlas" / "maps.zarr" / "reciprocam_box" / "zarr.json").read_text())
    assert metadata["attributes"] == {"kernel": "box", "score": "softmax", "block": -1}
    assert metadata["dimension_names"] == ["row", "target", "y", "x"]


def test_an_artifact_of_another_method_is_said_to_be_for_that(spec: RunSpec, tmp_path: Path) -> None:
    mixed = spec.model_copy(update={"methods": ("pm",), "artifacts": (str(MODEL / "gates.safetensors"),)})
    with pytest.raises(UsageError, match=r"pm: has no artifact, those given are for diffmask; add --artifact FILE"):
        plan(mixed, str(tmp_path / "atlas"))
