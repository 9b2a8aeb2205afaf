"""Several labels of an image: how they are written, which maps there are, and what readers make of fewer."""

from pathlib import Path

import numpy as np
import pytest
from support import in_one_process, jpeg, same_bytes, write_tar

from pipeline.audit.audit_atlas import AuditOptions, audit_atlas
from pipeline.audit.completeness import build_completeness_table
from pipeline.audit.map_tables import write_map_tables
from pipeline.audit.publication.verify_audit import verify_audit
from pipeline.label import label
from pipeline.label.label_atlas import read_labels
from pipeline.metrics.evaluate_atlas import evaluate_metrics
from pipeline.metrics.registry import SUITES
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.run.recompute_maps import recompute
from pipeline.store import Atlas
from pipeline.store.label_accuracy import measure_label_accuracy
from pipeline.store.verify import verify
from schemas.errors import UsageError
from schemas.layout import Flag
from schemas.policy import LabelFilter, Policy, Threshold
from schemas.run import ModelSpec, RunSpec

CASES: dict[str, tuple[bytes, str, list[int] | None]] = {
    "one": (b"3\n", "ok", [3]),
    "two": (b"3, 7", "ok", [3, 7]),
    "spaces": (b"9 0", "ok", [9, 0]),
    "json": (b"[1, 2, 3]", "ok", [1, 2, 3]),
    "lines": (b"4\n5\n", "ok", [4, 5]),
    "one-hot": (b"0 0 1 0 0 0 1 0 0 0", "ok", [2, 6]),
    "four": (b"[6, 5, 4, 3]", "ok", [6, 5, 4, 3]),
    "none": (b"[]", "missing_label", None),
    "no ones": (b"0,0,0,0,0,0,0,0,0,0", "missing_label", None),
    "twice": (b"3,3", "bad_label", None),
    "outside": (b"3,10", "label_out_of_range", None),
    "words": (b"cat dog", "bad_label", None),
    "holes": (b"1,,2", "bad_label", None),
    "open": (b"[1,2", "bad_label", None),
}
GOOD = {name: labels for name, (_, _, labels) in CASES.items() if labels}


@pytest.fixture
def spec(checkpoint: ModelSpec, tmp_path: Path) -> RunSpec:
    members = []
    for number, (name, (content, _, _)) in enumerate(CASES.items()):
        members += [(f"{name}.jpg", jpeg(number)), (f"{name}.cls", content)]
    members.append(("without.jpg", jpeg(99)))
    shard = write_tar(tmp_path / "a.tar", members)
    return RunSpec(
        shards=(str(shard),), model=checkpoint, methods=("legrad", "random"), targets=("label:3", "predicted")
    )


@pytest.fixture
def atlas(spec: RunSpec, tmp_path: Path) -> Atlas:
    plan(spec, str(tmp_path / "atlas"))
    run(str(tmp_path / "atlas"), INLINE)
    return Atlas.open(str(tmp_path / "atlas"))


def test_each_label_has_its_map_and_there_are_no_others(atlas: Atlas, spec: RunSpec, tmp_path: Path) -> None:
    rows = {row["key"]: row for row in atlas.samples().to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        name: status for name, (_, status, _) in CASES.items()
    } | {"without": "missing_label"}
    shard = atlas.shard("a")
    maps, flags = shard.array("legrad"), shard.array("legrad_flag")
    for name, labels in GOOD.items():
        row = rows[name]
        assert row["labels"] == labels
        assert row["label"] == (labels[0] if len(labels) == 1 else None)
        explained = [*labels[:3], *[None] * (3 - len(labels))]
        assert row["target_classes"] == [*explained, row["prediction"]]
        assert [value is None for value in row["target_probabilities"]] == [
            class_id is None for class_id in row["target_classes"]
        ]
        present = [class_id is not None for class_id in row["target_classes"]]
        assert np.isfinite(maps[row["ordinal"]]).all((1, 2)).tolist() == present
        assert (flags[row["ordinal"]] != 255).tolist() == present
    assert rows["four"]["error"] == "has 4 labels, and label:3 explains the first 3"
    assert rows["one"]["error"] is None
    assert verify(atlas).faults == []
    result = recompute(atlas, 20)
    assert (result.faults, result.maps, result.equal) == ([], 44, 44)
    fixed = spec.model_copy(update={"targets": ("class:6",)})
    plan(fixed, str(tmp_path / "fixed"))
    run(str(tmp_path / "fixed"), INLINE)
    other = Atlas.open(str(tmp_path / "fixed"))
    for name, target in (("four", "label:1"), ("one-hot", "label:2")):
        assert np.allclose(
            atlas.raw(name, "legrad", target), other.raw(name, "legrad", "class:6"), rtol=1e-3, atol=1e-6
        )


def test_of_several_labels_the_best_one_counts_for_the_accuracy(atlas: Atlas, spec: RunSpec, tmp_path: Path) -> None:
    rows = {row["key"]: row for row in atlas.samples().to_pylist()}
    accuracy = measure_label_accuracy(atlas)
    assert accuracy is not None
    assert (accuracy.labeled, accuracy.several) == (7, 6)
    assert accuracy.top1 == sum(rows[name]["prediction"] in labels for name, labels in GOOD.items())
    assert "; of 6 with several labels the best one counts" in accuracy.summary
    plan(spec.model_copy(update={"targets": ("predicted",)}), str(tmp_path / "predicted"))
    run(str(tmp_path / "predicted"), INLINE)
    others = Atlas.open(str(tmp_path / "predicted"))
    assert measure_label_accuracy(others) == accuracy  # labels count whatever is explained
    columns = ["key", "label", "labels", "label_rank"]
    found = {row["key"]: row for row in others.samples(columns).to_pylist()}
    assert found["one"] == {name: rows["one"][name] for name in columns} | {"labels": None}
    assert found["two"] == {name: rows["two"][name] for name in columns}


def test_a_label_that_is_not_there_is_missing_everywhere(atlas: Atlas, tmp_path: Path) -> None:
    assert len(atlas.dataset("legrad", "label:1")) == 7
    assert len(atlas.dataset("legrad", "label:3")) == 2
    with pytest.raises(UsageError, match="one: has no map of label:3, its labels are 3"):
        atlas.map("one", "legrad", "label:3")
    counts = build_completeness_table(atlas).to_pylist()
    assert [row["expected"] for row in counts if row["kind"] == "maps"] == [22, 22]
    policy = Policy(name="p", methods=("legrad",), target="label:2", threshold=Threshold(kind="otsu"))
    with in_one_process():
        summary = label(atlas, policy, ["png", "coco"], str(tmp_path / "labels"))
        assert (summary.counts["ok"] + summary.counts.get("empty", 0), summary.counts["no_label"]) == (6, 1)
        rows = {row["key"]: row["label"] for row in read_labels(str(tmp_path / "labels")).to_pylist()}
        assert {name: rows[name] for name in GOOD} == {name: [*labels, None][1] for name, labels in GOOD.items()}
        agreeing = policy.model_copy(update={"filter": LabelFilter(top1=True), "target": "label:1"})
        found = label(atlas, agreeing, ["parquet"], str(tmp_path / "top1")).counts
        predictions = {row["key"]: row["prediction"] for row in atlas.samples().to_pylist()}
        assert found.get("not_top1", 0) == sum(predictions[name] not in labels for name, labels in GOOD.items())
        tables = write_map_tables(atlas, str(tmp_path / "audit"), "label:3")
        assert set(tables["methods"]["images"].to_pylist()) == {1, 2}
        options = AuditOptions(0, 0, 0, include_images=False)
        audit_atlas(atlas, str(tmp_path / "whole"), "label:3", audit_options=options)
        assert list(verify_audit(str(tmp_path / "whole"))) == []
        metrics = dict(list(SUITES["faithfulness"].items())[:1])
        evaluate_metrics(atlas, str(tmp_path / "metrics"), "faithfulness", images=20, metrics=metrics)
    assert Flag(atlas.flag("four", "legrad", "label:3")) is Flag.OK


def test_two_runs_give_the_same_bytes(atlas: Atlas, spec: RunSpec, tmp_path: Path) -> None:
    plan(spec, str(tmp_path / "again"))
    run(str(tmp_path / "again"), INLINE)
    same_bytes(Path(atlas.objects.url), tmp_path / "again")


def test_several_labels_where_one_is_asked_for_are_refused_with_the_flag(spec: RunSpec, tmp_path: Path) -> None:
    single = spec.model_copy(update={"targets": ("label",)})
    plan(single, str(tmp_path / "single"))
    run(str(tmp_path / "single"), INLINE)
    rows = {row["key"]: row for row in Atlas.open(str(tmp_path / "single")).samples().to_pylist()}
    assert rows["one"]["status"] == "ok"
    assert rows["two"]["status"] == "bad_label"
    assert rows["two"]["error"].endswith("plan with --targets label:M for up to M labels of an image")
    with pytest.raises(UsageError, match="label and label:3 read the same labels; name one of them"):
        RunSpec.read(spec.model_dump() | {"targets": ["label", "label:3"]}, "a spec")


def test_status_counts_the_images_whose_labels_are_not_all_explained(vitatlas, atlas: Atlas) -> None:
    code, out, _ = vitatlas("status", atlas.objects.url)
    assert code == 0
    assert "labels   1 images have more than are explained" in out
    assert "targets: label:1, label:2, label:3, predicted" in out
