"""Runs of several targets: what each column explains, and who can read it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import DEMO_MODEL, build_once

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.explain.label_names import label_names, wordnet_ids
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.store.verify import verify
from schemas.errors import SpecMismatchError, UsageError
from schemas.run import RunSpec
from schemas.run_record import RunRecord

TARGETS = ("predicted", "top:3", "class:turtle,2")
FIXED = (0, 2, 4)
NAMES = ("predicted", "top:1", "top:2", "top:3", "class:4", "class:2")


def spec_of(world: SyntheticDataset, targets: tuple[str, ...] = TARGETS) -> RunSpec:
    return RunSpec(shards=(world.shards,), model=DEMO_MODEL, methods=("legrad", "random"), targets=targets)


@pytest.fixture(scope="module")
def several(world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """An atlas of six targets; not to be changed."""

    def compute(folder: Path) -> None:
        plan(spec_of(world), str(folder / "atlas"))
        run(str(folder / "atlas"), INLINE)

    return Atlas.open(str(build_once(tmp_path_factory, "targets", compute) / "atlas"))


@pytest.fixture(scope="module")
def each(world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Atlas]:
    """Atlases of one fixed class each; not to be changed."""

    def compute(folder: Path) -> None:
        for class_id in FIXED:
            plan(spec_of(world, (f"class:{class_id}",)), str(folder / str(class_id)))
            run(str(folder / str(class_id)), INLINE)

    folder = build_once(tmp_path_factory, "each target", compute)
    return {class_id: Atlas.open(str(folder / str(class_id))) for class_id in FIXED}


def test_the_target_dimension_is_named(several: Atlas) -> None:
    data = several.to_xarray()
    assert tuple(data["target"].values) == NAMES
    assert data["legrad"].sizes == {"row": several.run.rows, "target": 6, "y": 8, "x": 8}
    assert several.run.spec.targets == ("predicted", "top:3", "class:4,2")
    assert verify(several).faults == []


def test_each_target_explains_the_class_in_the_table(several: Atlas, each: dict[int, Atlas]) -> None:
    for sample in several.samples().to_pylist():
        classes = sample["target_classes"]
        assert classes[0] == classes[1] == sample["prediction"]
        assert len(set(classes[1:4])) == 3
        assert classes[4:] == [4, 2]
        probabilities = sample["target_probabilities"]
        assert probabilities[0] == pytest.approx(sample["probability"])
        assert probabilities[1] >= probabilities[2] >= probabilities[3]
        for target, class_id in zip(NAMES, classes, strict=True):
            if class_id not in FIXED:
                continue
            alone = each[class_id].raw(sample["row"], "legrad", f"class:{class_id}")
            assert np.allclose(several.raw(sample["row"], "legrad", target), alone, rtol=1e-3, atol=1e-6)


def test_classes_are_found_by_name(several: Atlas) -> None:
    by_id = several.map(0, "legrad", "class:4")
    assert np.array_equal(several.map(0, "legrad", "class:turtle"), by_id)
    assert np.array_equal(several.dataset("legrad", "class:Turtle")[0][0], by_id)
    with pytest.raises(UsageError, match=r"has no target 'class:0'; it has predicted, .*, class:4 \(turtle\), class:2"):
        several.map(0, "legrad", "class:zebrafish")
    with pytest.raises(UsageError, match="there is no class of this name; did you mean turtle"):
        several.map(0, "legrad", "class:tutle")


def test_the_same_plan_goes_on_and_another_is_refused(several: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    url = str(shutil.copytree(several.objects.url, tmp_path / "atlas"))
    assert plan(spec_of(world), url) == several.run
    assert plan(spec_of(world, ("predicted", "top:3", "class:4,rattan")), url) == several.run
    with pytest.raises(SpecMismatchError, match="targets is"):
        plan(spec_of(world, ("predicted", "top:3", "class:4")), url)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("class:tutle",), "there is no class of this name; did you mean turtle"),
        (("class:10",), "the network has classes 0 … 9"),
        (("top:11",), "the network has 10 classes"),
        (("class:turtle,4",), "class:4 is named twice"),
    ],
)
def test_a_class_that_the_network_lacks_is_refused(
    world: SyntheticDataset, tmp_path: Path, targets: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan(spec_of(world, targets), str(tmp_path / "atlas"))
    assert not (tmp_path / "atlas").exists()


def test_the_names_of_the_network_in_another_order_are_refused_and_other_names_taken(several: Atlas) -> None:
    own = several.class_names()
    assert several.class_names(own) == own
    with pytest.raises(UsageError, match=rf"class \d is [\w ]+, and {sorted(own)[0]} in --classes; correct"):
        several.class_names(sorted(own))
    translated = [f"el {name}" for name in own]
    assert several.class_names(translated) == tuple(translated)


def test_an_atlas_without_class_names_keeps_its_hash(several: Atlas) -> None:
    content = json.loads(several.run.to_bytes())
    assert content["label_names"][4] == "turtle"
    nameless = RunRecord.read(json.dumps(content | {"label_names": []}).encode(), "run.json").sealed()
    del content["label_names"]
    older = RunRecord.read(json.dumps(content).encode(), "run.json").sealed()
    assert older.run_hash == nameless.run_hash != several.run.run_hash
    assert older.class_name(4) == "4"
    assert older.describe_target("class:4") == "class:4"


def test_tables_without_the_columns_of_targets_are_read(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    import pipeline.store.atlas_reader as reader

    read = reader.from_parquet
    monkeypatch.setattr(
        reader,
        "from_parquet",
        lambda data, names: read(data, [name for name in names if not name.startswith("target_")]),
    )
    older = Atlas(atlas.objects, atlas.run)
    table = older.samples()
    assert table["target_classes"].null_count == len(table)
    assert table.schema.names == atlas.samples().schema.names
    assert isinstance(table, pa.Table)
    assert np.isfinite(older.shard(older.shard_names[0]).maps("legrad", "predicted")).all()


def test_only_weights_of_timm_have_the_names_of_imagenet() -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    names = label_names(model, pretrained=True)
    assert (len(names), names[207], names[0]) == (1000, "golden retriever", "tench, Tinca tinca")
    assert label_names(model, pretrained=False) == ()
    ids = wordnet_ids(model, pretrained=True)
    assert (len(ids), ids[207], list(ids)) == (1000, "n02099601", sorted(ids))
    assert wordnet_ids(model, pretrained=False) == ()
    assert label_names(timm.create_model("test_vit", num_classes=10), pretrained=True) == ()


def test_flags_and_status_name_the_classes(vitatlas, several: Atlas, tmp_path: Path, world: SyntheticDataset) -> None:
    arguments = [*sorted(Path(world.shards).parent.glob("*.tar")), "--model", DEMO_MODEL.name, "--pretrained"]
    arguments += ["--methods", "uniform", "--out", tmp_path / "atlas"]
    code, out, _ = vitatlas("plan", *arguments, "--targets", "predicted", "--targets", "top:2,class:turtle, 0")
    assert code == 0
    assert "targets  predicted, top:1, top:2, class:4 (turtle), class:0 (zebrafish), geometry" in out
    code, out, err = vitatlas("plan", *arguments, "--targets", "class:turtle,label")
    assert (code, "class 'label': there is no class of this name" in err) == (2, True)
