"""An atlas is measured shard by shard: a row for each image, method, target and metric."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support import DEMO_MODEL, FAST, crash_after, jpeg, samples, write_tar

from pipeline.demo.run_demo import ARTIFACTS
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.metrics import SUITES, evaluate_metrics
from pipeline.metrics.adcc import ADCC
from pipeline.metrics.deletion_insertion import DeletionInsertion
from pipeline.metrics.evaluate_atlas import mean_classes
from pipeline.metrics.metric import Metric
from pipeline.metrics.parameter_randomization import ParameterRandomization
from pipeline.metrics.sample_selection import select_samples
from pipeline.run import INLINE, run
from pipeline.run.execution import ComputeOptions
from pipeline.run.plan import plan
from pipeline.store import Atlas, ObjectStore
from pipeline.store.parquet import from_parquet
from schemas.errors import CorruptShardError, UsageError
from schemas.metrics import FAITHFULNESS_METRICS, METRIC_SUMMARY, METRIC_VALUES, OWN_WEIGHTS, SANITY_METRICS
from schemas.run import ModelSpec, RunSpec

CHEAP: dict[str, Metric] = {"deletion_insertion": DeletionInsertion(1)}
"""Three copies of an image, which all methods share."""

CPU = ComputeOptions(device="cpu")


@pytest.fixture(scope="module")
def made(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas of three shards of 5, 7 and 4 samples, not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    for index, (count, first) in enumerate(((5, 0), (7, 5), (4, 12))):
        write_tar(folder / f"part-{index}.tar", samples(count, first))
    shards = (str(folder / "part-{0..2}.tar"),)
    plan(RunSpec(shards=shards, model=checkpoint, methods=FAST, batch_size=4), str(folder / "atlas"))
    run(str(folder / "atlas"), INLINE)
    return folder / "atlas"


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed; its shards are those of the other."""
    return Path(shutil.copytree(made, tmp_path / "undisturbed"))


@pytest.fixture
def measure(tmp_path: Path) -> Callable[..., pa.Table]:
    """Measure an atlas, by default all images of one method; values are in ``tmp_path / "evaluate_metrics"``."""

    def measure(url: object, out: str = "faith", images: int | None = 99, **options: object) -> pa.Table:
        chosen = {"suite": "faithfulness", "methods": ["random"], "metrics": CHEAP, "options": CPU} | options
        return evaluate_metrics(Atlas.open(str(url)), str(tmp_path / out), images=images, **chosen)  # type: ignore[arg-type]

    return measure


def figures(out: Path) -> pa.Table:
    """All figures of a folder, in the order of the shards."""
    objects = ObjectStore(str(out))
    return pa.concat_tables(
        [from_parquet(objects.get(f"values/{name}")) for name in objects.list("values")]
    ).unify_dictionaries()


def content(out: Path) -> dict[str, bytes]:
    """All objects of a folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def times(out: Path) -> dict[str, int]:
    """When each object was written."""
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("kind", "names", "images"), [("faithfulness", FAITHFULNESS_METRICS, 6), ("sanity", SANITY_METRICS, 1)]
)
def test_one_row_an_image_method_target_and_figure(
    finished: Path, tmp_path: Path, kind: str, names: dict[str, str], images: int
) -> None:
    said: list[str] = []
    out = tmp_path / "faith"
    summary = evaluate_metrics(Atlas.open(str(finished)), str(out), kind, images=images, options=CPU, log=said.append)  # type: ignore[arg-type]
    found, atlas = figures(out), Atlas.open(str(finished))
    assert found.schema == METRIC_VALUES
    assert len(found) == images * len(atlas.methods) * 2 * len(names)
    assert set(found["metric"].to_pylist()) == set(names)
    assert (np.diff(found["row"].to_numpy()) >= 0).all()
    of = {row["row"]: row["key"] for row in atlas.samples().to_pylist()}
    assert {(row["row"], row["key"]) for row in found.to_pylist()} <= set(of.items())
    assert summary.schema == METRIC_SUMMARY
    assert summary.equals(from_parquet((out / "summary.parquet").read_bytes()))
    assert len(summary) == len(atlas.methods) * 2 * (len(names) + (kind == "faithfulness"))
    for row in summary.to_pylist():
        assert row["better"] == names[row["metric"].replace("_of_means", "")]
        if row["mean"] is not None:
            assert row["images"] == images
            assert row["low"] - 1e-12 <= row["mean"] <= row["high"] + 1e-12
    assert len(said) == 1
    assert said[0].startswith(f"{kind}: {images} images, about ")
    shares = [int(part) for part in re.findall(r" (\d+) %", said[0])]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=2)


@pytest.mark.soak
def test_cores_share_the_tars_and_nothing_changes(
    finished: Path, tmp_path: Path, measure: Callable[..., pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = measure(finished, "alone", 8)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert measure(finished, "shared", 8).equals(alone)
    assert content(tmp_path / "alone") == content(tmp_path / "shared")


def test_classes_that_several_targets_explain_are_counted_once(finished: Path) -> None:
    atlas = Atlas.open(str(finished))
    rows = atlas.samples_with_maps(["label", "prediction"]).to_pylist()
    counted = [1 + (row["label"] != row["prediction"]) for row in rows]
    assert 1 < mean_classes(atlas) == np.mean(counted)


def test_what_is_done_is_not_done_again(finished: Path, tmp_path: Path, measure: Callable[..., pa.Table]) -> None:
    said: list[str] = []
    first = measure(finished)
    before = times(tmp_path / "faith")
    assert measure(finished, log=said.append).equals(first)
    after = times(tmp_path / "faith")
    assert {name for name in before if before[name] != after[name]} == {"about.json", "product.json", "summary.parquet"}
    assert not said


def test_stopped_anywhere_the_same_call_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path, measure: Callable[..., pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(finished, "whole")
    for count in range(1, 99, 2):
        out = f"stopped-{count}"
        with crash_after(count, monkeypatch) as crash:
            measure(finished, out)
        measure(finished, out)
        assert content(tmp_path / "whole") == content(tmp_path / out)
        if not crash.happened:
            break
    assert 10 < count < 98


def test_what_another_call_made_is_not_written_over(finished: Path, measure: Callable[..., pa.Table]) -> None:
    measure(finished)
    for change, says in (
        ({"seed": 1}, "seed is 0, not 1"),
        ({"images": 9}, "images is 99, not 9"),
        ({"methods": ["legrad"]}, "methods is "),
        ({"suite": "sanity"}, "suite is 'faithfulness', not 'sanity'"),
        ({"metrics": {"deletion_insertion": DeletionInsertion(2)}}, "metrics.deletion_insertion.steps is 1, not 2"),
    ):
        with pytest.raises(UsageError, match=f"holds something else .*{says}.*; name another --out, or remove it"):
            measure(finished, **change)
    with pytest.raises(UsageError, match="holds an atlas"):
        measure(finished, str(finished))


def test_a_tar_whose_maps_were_made_again_is_measured_again(
    finished: Path, tmp_path: Path, measure: Callable[..., pa.Table]
) -> None:
    measure(finished)
    before, objects = times(tmp_path / "faith"), ObjectStore(str(finished))
    commit = Atlas.open(str(finished)).commits["part-1"]
    turned = commit.model_copy(update={"objects": commit.objects[::-1]})  # another hash, the same objects
    objects.put("commits/part-1.json", turned.to_bytes())
    measure(finished)
    after = times(tmp_path / "faith")
    assert {name for name in before if before[name] != after[name] and "/" in name} == {
        "commits/part-1.json",
        "values/part-1.parquet",
    }


def test_as_the_atlas_grows_the_draw_is_of_all_of_it_and_little_is_measured_again(
    finished: Path, tmp_path: Path, measure: Callable[..., pa.Table]
) -> None:
    measure(finished, "whole", 4)
    whole, (first, *later) = ObjectStore(str(finished)), Atlas.open(str(finished)).commits
    records = {shard: whole.get(f"commits/{shard}.json") for shard in later}
    for shard in later:
        whole.delete(f"commits/{shard}.json")
    measure(finished, "grown", 4)
    assert set(select_samples(Atlas.open(str(finished)), 4, 0)) == {first}
    for shard, data in records.items():
        whole.put(f"commits/{shard}.json", data)
    measure(finished, "grown", 4)
    assert content(tmp_path / "whole") == content(tmp_path / "grown")
    for shard in later:
        whole.delete(f"commits/{shard}.json")
    measure(finished, "grown", 4)  # and when shards are finished no more
    assert ObjectStore(str(tmp_path / "grown")).list("values") == [f"{first}.parquet"]


def test_a_draw_is_random_and_keeps_what_larger_and_smaller_ones_have(finished: Path) -> None:
    def rows(images: int, seed: int = 0) -> set[tuple[str, int]]:
        found = select_samples(Atlas.open(str(finished)), images, seed)
        return {(shard, ordinal) for shard, ordinals in found.items() for ordinal in ordinals}

    assert rows(4) < rows(8) < rows(99)
    assert [len(rows(images)) for images in (1, 4, 99)] == [1, 4, 16]
    firsts = [next(iter(rows(1, seed))) for seed in range(40)]
    assert len(set(firsts)) > 10
    assert rows(4) != rows(4, 1)


def test_images_are_drawn_from_all_tars_and_only_those_with_maps(
    spec: RunSpec, tmp_path: Path, measure: Callable[..., pa.Table]
) -> None:
    members = samples(5)
    members[3] = (members[3][0], b"no picture")
    write_tar(tmp_path / "shards" / "part-0.tar", members)
    out = str(tmp_path / "atlas")
    plan(spec, out)
    drawn = select_samples(run(out, INLINE), 99, 0)
    assert {shard: len(ordinals) for shard, ordinals in drawn.items()} == {"part-0": 4, "part-1": 7, "part-2": 4}
    assert 1 not in drawn["part-0"]
    measure(out)
    assert len(figures(tmp_path / "faith")) == 15 * 2 * 3


@pytest.mark.parametrize("change", ["exchanged", "shorter"])
def test_a_tar_that_holds_other_pictures_is_refused_and_the_others_stay(
    spec: RunSpec, tmp_path: Path, measure: Callable[..., pa.Table], change: str
) -> None:
    plan(spec, str(tmp_path / "atlas"))
    run(str(tmp_path / "atlas"), INLINE)
    members = samples(4, 12)
    if change == "exchanged":
        members[0] = (members[0][0], jpeg(99))
    write_tar(tmp_path / "shards" / "part-2.tar", members if change == "exchanged" else members[:9])
    with pytest.raises(CorruptShardError, match="part-2"):
        measure(tmp_path / "atlas")
    assert ObjectStore(str(tmp_path / "faith")).list("commits") == ["part-0.json", "part-1.json"]


def test_mistakes_are_named_and_nothing_is_written(
    finished: Path, tmp_path: Path, measure: Callable[..., pa.Table]
) -> None:
    for change, says in (
        ({"methods": ["lograd"]}, "has no maps of 'lograd'; it has attention, legrad, random"),
        ({"metrics": {}}, "name at least one metric"),
        ({"images": 0}, "take at least one"),
        ({"suite": "faith"}, "there is no suite 'faith' of metrics; there are faithfulness, sanity"),
    ):
        with pytest.raises(UsageError, match=says):
            measure(finished, **change)
    assert not (tmp_path / "faith").exists()


def test_without_any_map_there_is_nothing_to_measure(
    spec: RunSpec, tmp_path: Path, measure: Callable[..., pa.Table]
) -> None:
    plan(spec, str(tmp_path / "planned"))
    with pytest.raises(UsageError, match="has no finished shard yet; run it first"):
        measure(tmp_path / "planned")


def test_maps_are_those_of_the_atlas(finished: Path, tmp_path: Path) -> None:
    evaluate_metrics(
        Atlas.open(str(finished)),
        str(tmp_path / "faith"),
        "faithfulness",
        images=3,
        options=CPU,
        metrics={"adcc": ADCC()},
    )
    found, atlas = figures(tmp_path / "faith"), Atlas.open(str(finished))
    for row in found.filter(pc.equal(found["metric"].cast(pa.string()), "complexity")).to_pylist():
        assert row["value"] == pytest.approx(atlas.map(row["row"], row["method"], row["target"]).mean(), abs=1e-6)


def test_learned_methods_are_asked_again_as_any_other(world: SyntheticDataset, tmp_path: Path) -> None:
    methods, out = ("pm_zs", "pm", "diffmask"), str(tmp_path / "learned")
    plan(RunSpec(shards=(world.shards,), model=DEMO_MODEL, methods=methods, artifacts=ARTIFACTS), out)
    run(out, INLINE)
    sanity = SUITES["sanity"] | {"parameter_randomization": ParameterRandomization(samples=0)}
    for kind, by in (("faithfulness", SUITES["faithfulness"]), ("sanity", sanity)):
        found = evaluate_metrics(
            Atlas.open(out), str(tmp_path / kind), kind, images=1, options=CPU, metrics=by
        ).to_pylist()  # type: ignore[arg-type]
        assert {row["method"] for row in found} == set(methods)
        alone = [row for row in found if row["metric"] != "grid_pointing"]  # one image makes no mosaic
        assert all(row["mean"] is not None for row in alone), kind
    of = {(row["method"], row["metric"]): row["mean"] for row in found if row["target"] == "predicted"}
    assert all(of[method, "random_logit"] < 1 for method in ("pm", "pm_zs"))
    assert of["pm", "mprt"] == 1  # its network is its own, and forgets nothing
    noted = {(row["method"], row["metric"]) for row in found if row["note"] == OWN_WEIGHTS}
    assert noted == {(method, figure) for method in ("pm", "diffmask") for figure in ("mprt", "emprt")}
    assert all(of[method, "mprt"] < 1 for method in ("pm_zs", "diffmask"))


def test_on_the_demo_the_network_agrees_that_legrad_beats_the_controls(
    world: SyntheticDataset, atlas: Atlas, tmp_path: Path
) -> None:
    methods, by = ("legrad", "center", "uniform"), {"deletion_insertion": DeletionInsertion()}
    found = evaluate_metrics(
        atlas, str(tmp_path / "faith"), "faithfulness", methods, 12, options=CPU, metrics=by
    )  # fmt: skip
    of = {(row["method"], row["metric"]): row for row in found.to_pylist() if row["target"] == "predicted"}
    assert of["uniform", "abpc"]["mean"] == 0
    assert of["legrad", "abpc"]["low"] > 0.1
    for control in ("center", "uniform"):
        assert of["legrad", "abpc"]["mean"] > of[control, "abpc"]["mean"]
        assert of["legrad", "deletion"]["mean"] < of[control, "deletion"]["mean"]
