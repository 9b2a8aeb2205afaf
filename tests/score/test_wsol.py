"""Scores of an atlas: what is compared with what, what is kept, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support import jpeg, samples, write_tar

from pipeline.demo.world import DEMO, World, scene
from pipeline.label.tune import Tuning
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.score import count, score
from pipeline.score.localization import overlaps, resize_boxes, score_map
from pipeline.score.pixels import histogram, pxap
from pipeline.score.tally import order
from pipeline.score.trivial import TRIVIAL
from pipeline.store import Atlas
from pipeline.truth.truth import resize_mask
from schemas.errors import UsageError
from schemas.labels import PartRecord
from schemas.policy import Cut, Policy
from schemas.record import sha256
from schemas.run import RunSpec
from schemas.scores import CURVES, LOCALIZATION, ScoresRecord


def rows_of(table) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in table.to_pylist()}


@pytest.fixture(scope="module")
def scored(atlas: Atlas, world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """Scores of three methods in a folder of their own."""
    out = tmp_path_factory.mktemp("scores") / "out"
    table = score(atlas.objects.url, str(world.truth), methods=["legrad", "center", "uniform"], out=str(out))
    assert table.schema == LOCALIZATION
    assert pq.read_table(out / "localization.parquet").equals(table)
    return rows_of(table), out


def change(world: World, tmp_path: Path, how: Callable[[dict], Any]) -> str:
    content = json.loads((world.truth / "instances.json").read_text())
    how(content)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return str(tmp_path / "truth.json")


def first(pictures: int) -> Callable[[dict], None]:
    """Truth of so many pictures only; the first tar has 24."""

    def keep(content: dict) -> None:
        content["images"] = content["images"][:pictures]
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] < pictures]

    return keep


def without(number: int) -> Callable[[dict], None]:
    """Truth of all pictures but one."""

    def take_out(content: dict) -> None:
        content["images"] = [each for each in content["images"] if each["id"] != number]
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != number]

    return take_out


def of_keys(spec: RunSpec, tmp_path: Path, tars: dict[str, list[str]], labelled: bool = True) -> Atlas:
    """An atlas of 40 × 30 pictures with these keys, by tar."""
    for tar, keys in tars.items():
        members = [
            (f"{key}.{kind}", data)
            for number, key in enumerate(keys)
            for kind, data in (("jpg", jpeg(number)), *([("cls", b"1")] if labelled else []))
        ]
        write_tar(tmp_path / "keys" / f"{tar}.tar", members)
    shards = tuple(str(tmp_path / "keys" / f"{tar}.tar") for tar in tars)
    plan(spec.model_copy(update={"shards": shards}), str(tmp_path / "of_keys"))
    return run(str(tmp_path / "of_keys"), INLINE)


def boxed(file: Path, names: list[str]) -> str:
    """COCO truth of 40 × 30 pictures, a box each."""
    images = [{"id": place, "file_name": name, "width": 40, "height": 30} for place, name in enumerate(names)]
    boxes = [{"id": each["id"], "image_id": each["id"], "bbox": [2, 2, 9, 8]} for each in images]
    file.write_text(json.dumps({"images": images, "annotations": boxes}))
    return str(file)


def small(atlas: Atlas, truth: str, tmp_path: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """Scores of a part of the atlas."""
    options = {"methods": ["legrad"], "subset": True, "out": str(tmp_path / "out")} | options
    return rows_of(score(atlas.objects.url, truth, **options))


def test_scores_are_those_of_the_protocol_on_the_maps_and_the_drawn_truth(atlas: Atlas, scored) -> None:
    """Truth from the scene itself, not from the file."""
    hits, total = [], 0
    for number in range(48):
        drawn = scene(DEMO, 0, number)
        values = score_map(atlas.map(f"scene_{number:06d}", "legrad"))
        corners = []
        for mask in drawn.masks:
            rows, columns = np.nonzero(mask)
            corners.append([columns.min(), rows.min(), columns.max(), rows.max()])
        height, width = drawn.image.shape[:2]
        hits.append(overlaps(values, resize_boxes(np.array(corners), width, height)))
        total += histogram(values, resize_mask(np.logical_or.reduce(drawn.masks), 224), np.zeros((224, 224), bool))
    row = scored[0]["legrad"]
    assert (row["images"], row["masks"], row["tested"], row["tuned_on"]) == (48, 48, 38, 10)
    assert row["pxap"] == pytest.approx(pxap(total), abs=1e-9)
    largest, every = np.array(hits).swapaxes(0, 1)
    assert row["maxboxacc"] == pytest.approx(100 * (largest >= 0.5).mean(0).max())
    terms = [100 * (every >= delta).mean(0).max() for delta in (0.3, 0.5, 0.7)]
    assert row["maxboxacc_v2"] == pytest.approx(np.mean(terms))


def test_controls_and_trivial_predictors_are_rows_and_the_network_is_named(atlas: Atlas, scored) -> None:
    rows = scored[0]
    kinds = {name: row["kind"] for name, row in rows.items()}
    assert kinds == {"legrad": "method", "center": "control", "uniform": "control"} | dict.fromkeys(TRIVIAL, "control")
    weights = atlas.run.model.weights.removeprefix("sha256:")[:12]
    assert {row["classifier"] for row in rows.values()} == {f"{Path(atlas.run.model.name).name} {weights}"}
    assert rows["legrad"]["pxap"] > rows["center"]["pxap"] > rows["uniform"]["pxap"]
    assert rows["uniform"]["maxboxacc"] == 0  # a constant map has the empty box only


def test_the_split_is_of_the_pictures_whose_keys_come_first(scored) -> None:
    out = scored[1]
    about = ScoresRecord.read((out / "about.json").read_bytes(), "about")
    keys = sorted((f"scene_{number:06d}" for number in range(48)), key=order)[:10]
    assert about.tuning.keys == sha256("\n".join(sorted(keys)).encode())


def test_the_curves_hold_the_scores(scored) -> None:
    rows, out = scored
    lines = pq.read_table(out / "curves.parquet")
    assert lines.schema == CURVES
    points = [point for point in lines.to_pylist() if point["method"] == "legrad"]
    best = {name: max(p["value"] for p in points if p["curve"] == name) for name in ("largest50", "any30", "any70")}
    row = rows["legrad"]
    assert best == pytest.approx({"largest50": row["maxboxacc"], "any30": row["iou30"], "any70": row["iou70"]})
    assert next(p["value"] for p in points if p["curve"] == "largest50" and p["tau"] == row["tau_oracle"]) == best[
        "largest50"
    ]  # fmt: skip
    with Image.open(out / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 300


def test_what_is_counted_is_not_counted_again(atlas: Atlas, world: World, scored, tmp_path: Path, monkeypatch) -> None:
    rows, out = scored
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / "localization.parquet").unlink()
    monkeypatch.setattr("pipeline.score.wsol.count_tar", lambda *_: pytest.fail("counted again"))
    again = score(atlas.objects.url, str(world.truth), methods=["legrad", "center", "uniform"], out=str(copy))
    assert rows_of(again) == rows
    for name in ("localization.parquet", "curves.parquet", "curves.png"):
        assert (copy / name).read_bytes() == (out / name).read_bytes()
    fewer = score(atlas.objects.url, str(world.truth), methods=["center"], out=str(copy))
    assert rows_of(fewer)["center"] == rows["center"]
    assert "legrad" not in rows_of(fewer)


def test_a_method_asked_for_later_is_counted_alone(atlas: Atlas, world: World, tmp_path: Path, monkeypatch) -> None:
    truth = change(world, tmp_path, first(24))
    before = small(atlas, truth, tmp_path)
    seen: list[int] = []
    of_map = count.of_map
    monkeypatch.setattr(count, "of_map", lambda values, picture: seen.append(1) or of_map(values, picture))
    both = small(atlas, truth, tmp_path, methods=["attention", "legrad"])
    assert len(seen) == 24
    assert both["legrad"] == before["legrad"]
    record = PartRecord.read(next((tmp_path / "out" / "commits").iterdir()).read_bytes(), "x")
    assert record.parts == (*TRIVIAL, "legrad", "attention")
    assert record.counts["scored"] == 24


def test_a_lost_commit_is_made_again(atlas: Atlas, world: World, tmp_path: Path) -> None:
    truth = change(world, tmp_path, first(20))
    before = small(atlas, truth, tmp_path)
    commit = next((tmp_path / "out" / "commits").iterdir())
    data = commit.read_bytes()
    commit.unlink()
    assert small(atlas, truth, tmp_path) == before
    assert commit.read_bytes() == data


def test_a_subset_counts_what_both_have_and_says_what_is_left_out(atlas: Atlas, world: World, tmp_path: Path) -> None:
    def some(content: dict) -> None:
        first(20)(content)
        content["images"].append(content["images"][0] | {"id": 999, "file_name": "elsewhere.jpg"})

    said: list[str] = []
    row = small(atlas, change(world, tmp_path, some), tmp_path, say=said.append)["legrad"]
    assert (row["images"], row["tuned_on"]) == (20, 10)
    assert [line.split(" pictures of ")[0] for line in said] == ["28 of 48", "1 of 21"]


def test_tuning_on_pictures_that_are_named(atlas: Atlas, world: World, tmp_path: Path) -> None:
    truth = change(world, tmp_path, first(24))
    content = json.loads(Path(truth).read_text())
    first(6)(content)
    (tmp_path / "split.json").write_text(json.dumps(content))
    row = small(atlas, truth, tmp_path, tune=str(tmp_path / "split.json"))["legrad"]
    assert (row["images"], row["tuned_on"], row["tested"]) == (24, 6, 18)


def test_tuning_on_another_atlas(atlas: Atlas, world: World, tmp_path: Path) -> None:
    truth = change(world, tmp_path, first(24))
    options = {"tune": truth, "tune_atlas": atlas.objects.url}
    row = small(atlas, truth, tmp_path, **options)["legrad"]
    assert (row["images"], row["tuned_on"], row["tested"]) == (24, 24, 24)
    assert row["tau"] == row["tau_oracle"]  # the same pictures
    assert (row["gt_known"], row["boxacc_v2"], row["iou"]) == (row["maxboxacc"], row["maxboxacc_v2"], row["iou_oracle"])
    assert (tmp_path / "out" / "tuning" / "commits").is_dir()


def test_truth_of_boxes_alone_has_no_pixel_scores(atlas: Atlas, world: World, tmp_path: Path) -> None:
    def boxes_only(content: dict) -> None:
        first(12)(content)
        for each in content["annotations"]:
            del each["segmentation"]

    row = small(atlas, change(world, tmp_path, boxes_only), tmp_path)["legrad"]
    assert (row["masks"], row["pxap"], row["iou"], row["pointing"]) == (0, None, None, None)
    assert row["maxboxacc_v2"] > 0


def test_a_box_that_reaches_over_the_border_is_cut(atlas: Atlas, world: World, tmp_path: Path) -> None:
    def wide(content: dict) -> None:
        first(12)(content)
        for each in content["annotations"]:
            each["bbox"] = [-3.5, -2, 1000, 1000]

    rows = small(atlas, change(world, tmp_path, wide), tmp_path)
    assert rows["whole image"]["maxboxacc_v2"] == 100


def test_the_predicted_class(atlas: Atlas, world: World, tmp_path: Path) -> None:
    row = small(atlas, change(world, tmp_path, first(12)), tmp_path, target="predicted")["legrad"]
    assert (row["target"], row["top5_loc"]) == ("predicted", None)
    assert row["top1_loc"] <= row["gt_known"]


def test_pictures_without_maps_or_objects_are_counted(spec: RunSpec, tmp_path: Path) -> None:
    members = [(name, b"no picture" if name == "s0013.jpg" else data) for name, data in samples(4, 12)]
    write_tar(tmp_path / "shards" / "part-2.tar", members)
    out = str(tmp_path / "atlas")
    plan(spec, out)
    atlas = run(out, INLINE)
    rows = atlas.samples(["key", "width", "height"]).to_pylist()
    images = [
        {"id": place, "file_name": f"{row['key']}.jpg", "width": row["width"] or 40, "height": row["height"] or 30}
        for place, row in enumerate(rows)
    ]
    boxes = [{"id": place + 1, "image_id": place, "bbox": [2, 2, 9, 8]} for place in range(len(images))]
    for each in boxes[:2]:
        each |= {"iscrowd": 1, "segmentation": [[2, 2, 9, 2, 9, 9, 2, 9]]}
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    row = rows_of(score(out, str(tmp_path / "truth.json"), methods=["random"]))["random"]
    assert (row["images"], row["without_object"], row["without_maps"]) == (13, 2, 1)
    assert (tmp_path / "atlas" / "scores" / "truth-json-label" / "localization.parquet").exists()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (without(30), "scene_000030: truth.json has no annotation of this picture"),
        (
            first(40),
            r"scene_000040: truth.json has no annotation of this picture of .*, nor 7 others; add it, or .* --subset",
        ),
        (
            lambda c: c["images"].append(c["images"][0] | {"id": 999, "file_name": "x/elsewhere.jpg"}),
            "x/elsewhere: stands in truth.json, but .* has no such picture; .* --subset",
        ),
        (lambda c: c["images"][5].update(width=7), r"scene_000005: is \d+×\d+ pixels, but 7×\d+ in the truth"),
    ],
)
def test_pictures_that_only_one_side_has_are_refused_and_nothing_is_written(
    atlas: Atlas, world: World, tmp_path: Path, how, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        score(atlas.objects.url, change(world, tmp_path, how), methods=["center"], out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tars", "file_names", "says"),
    [
        (
            {"a": ["x/s0", "s1"], "b": ["x/s0", "s2"]},
            ["x/s0.jpg", "s1.jpg", "s2.jpg"],
            "x/s0 would be the truth of x/s0 in b and x/s0 in a;",
        ),
        (
            {"a": ["0/000", "0/001"], "b": ["1/000", "1/001"]},
            ["class0/000.jpg", "class0/001.jpg"],
            "class0/000 would be the truth of 1/000 in b and 0/000 in a;",
        ),
        ({"a": ["0/000", "1/000"], "b": ["s1"]}, ["000.jpg", "s1.jpg"], "000 would be the truth of 1/000 in a and 0/0"),
    ],
)
@pytest.mark.parametrize("role", ["truth", "tune", "calibrate"])
def test_one_truth_is_not_that_of_two_samples(
    spec: RunSpec, tmp_path: Path, tars: dict, file_names: list, says: str, role: str
) -> None:
    atlas = of_keys(spec, tmp_path, tars)
    truth = boxed(tmp_path / "truth.json", file_names)
    url, own = atlas.objects.url, boxed(tmp_path / "own.json", ["none.jpg"])
    uses = {
        "truth": lambda: score(url, truth, subset=True),
        "tune": lambda: score(url, own, tune=truth, subset=True),
        "calibrate": lambda: Tuning(truth).threshold(
            atlas, Policy(name="p", methods=("random",), cut=Cut(kind="calibrated"))
        ),
    }
    with pytest.raises(UsageError, match=f"truth.json: {says}"):
        uses[role]()
    assert not (Path(atlas.objects.url) / "scores").exists()


def test_a_duplicate_in_one_tar_is_no_second_picture(spec: RunSpec, tmp_path: Path) -> None:
    atlas = of_keys(spec, tmp_path, {"a": ["s0", "s1", "s0", "s2"]})
    assert atlas.statuses()["duplicate_key"] == 1
    truth = boxed(tmp_path / "truth.json", ["s0.jpg", "s1.jpg", "s2.jpg"])
    assert rows_of(score(atlas.objects.url, truth))["random"]["images"] == 3


def test_without_labels_the_predicted_class_has_hits_but_no_accuracy(spec: RunSpec, tmp_path: Path) -> None:
    unlabelled = spec.model_copy(update={"targets": ("predicted",)})
    atlas = of_keys(unlabelled, tmp_path, {"a": ["s0", "s1", "s2", "s3"]}, labelled=False)
    truth = boxed(tmp_path / "truth.json", [f"s{number}.jpg" for number in range(4)])
    row = rows_of(score(atlas.objects.url, truth, target="predicted"))["random"]
    assert (row["images"], row["top1_loc"], row["top5_loc"]) == (4, None, None)
    assert row["gt_known"] is not None


def test_an_object_that_cannot_be_used_is_named_and_no_table_is_written(
    atlas: Atlas, world: World, tmp_path: Path
) -> None:
    def flat(content: dict) -> None:
        first(12)(content)
        content["annotations"][3]["bbox"] = [0, 0, 0, 5]

    with pytest.raises(UsageError, match="no area in the picture"):
        small(atlas, change(world, tmp_path, flat), tmp_path)
    assert not (tmp_path / "out" / "localization.parquet").exists()
    small(atlas, change(world, tmp_path, lambda content: first(12)(content)), tmp_path)  # mended: the same folder does


def test_other_scores_are_not_written_over(atlas: Atlas, world: World, scored, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(scored[1], tmp_path / "copy"))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"holds .*target is 'label', not 'predicted'.* another --out"):
        score(atlas.objects.url, str(world.truth), "predicted", ["center"], out=str(copy))
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"truth": "/nowhere.json"}, "nowhere.json: No such file"),
        ({"methods": ["gradcam"]}, "has no maps of 'gradcam'"),
        ({"target": "top5"}, "has no target 'top5'"),
        ({"tune_atlas": "ATLAS"}, "say the truth of its pictures, with --tune"),
        ({"tune_atlas": "/nowhere", "tune": "TRUTH"}, "is not an atlas"),
        ({"url": "/nowhere"}, "is not an atlas"),
    ],
)
def test_what_is_not_there_is_named(atlas: Atlas, world: World, arguments: dict, says: str) -> None:
    names = {"ATLAS": atlas.objects.url, "TRUTH": str(world.truth)}
    given = {name: names.get(value, value) if isinstance(value, str) else value for name, value in arguments.items()}
    with pytest.raises(UsageError, match=says):
        score(**({"url": atlas.objects.url, "truth": str(world.truth)} | given))


def test_thresholds_of_another_network_are_refused(atlas: Atlas, finished: Path, world: World) -> None:
    with pytest.raises(UsageError, match="is of another network"):
        score(atlas.objects.url, str(world.truth), methods=["legrad"], tune=str(world.truth), tune_atlas=str(finished))


def test_the_controls_are_those_of_the_registry() -> None:
    from pipeline.explain import methods
    from schemas.scores import is_control

    for name, method in methods.items():
        assert is_control(name) == (method.kind == "control"), name


def test_tables_of_an_audit_are_not_written_over(atlas: Atlas, world: World, tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text('{"run": "sha256:0", "target": "label", "methods": ["legrad"]}')
    with pytest.raises(UsageError, match=r"holds something else .*; name another --out"):
        score(atlas.objects.url, str(world.truth), out=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["about.json"]
