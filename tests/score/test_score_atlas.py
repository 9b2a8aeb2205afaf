"""Scores of an atlas: what is compared with what, what is kept, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from score.builders import boxed, change, first, of_keys, rows_of, small

from pipeline.demo.synthetic_dataset import DEMO, SyntheticDataset, make_scene
from pipeline.image.iou import box_iou
from pipeline.image.score_map import SIDE, score_map, visible_window
from pipeline.score import localization_table, score, score_shard
from pipeline.score.box_metrics import THRESHOLDS, largest_boxes, resize_boxes
from pipeline.score.counters import tuning_rank
from pipeline.score.pixel_metrics import BINS, pxap, score_histogram
from pipeline.score.plots import plot_scores
from pipeline.score.threshold_grid import ThresholdGrid
from pipeline.score.trivial_boxes import TRIVIAL_BOXES
from pipeline.store import Atlas
from pipeline.truth import read_truth
from pipeline.truth.truth import resize_mask
from schemas.base import sha256
from schemas.commits import DerivedCommit
from schemas.errors import UsageError
from schemas.run import RunSpec
from schemas.scores import CURVES, LOCALIZATION, ScoringSpec


@pytest.fixture(scope="module")
def scored(atlas: Atlas, world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """Scores of three methods in a folder of their own."""
    out = tmp_path_factory.mktemp("scores") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(localization_table, "plot_scores", plot_scores)
        table = score(atlas, read_truth(world.truth), methods=["legrad", "center", "uniform"], out=str(out))
    assert table.schema == LOCALIZATION
    assert pq.read_table(out / "localization.parquet").equals(table)
    return rows_of(table), out


def test_scores_are_those_of_the_protocol_on_the_maps_and_the_drawn_truth(atlas: Atlas, scored) -> None:
    """Truth from the scene itself, not from the file."""
    hits, total = [], 0
    for number in range(48):
        drawn = make_scene(DEMO, 0, number)
        values = score_map(atlas.map(f"scene_{number:06d}", "legrad"))
        corners = []
        for mask in drawn.masks:
            rows, columns = np.nonzero(mask)
            corners.append([columns.min(), rows.min(), columns.max(), rows.max()])
        height, width = drawn.image.shape[:2]
        true_boxes = resize_boxes(np.array(corners), width, height)
        largest, any_ious = largest_boxes(values, true_boxes)
        hits.append([box_iou(largest, true_boxes).max(1), any_ious])
        total += score_histogram(
            values, resize_mask(np.logical_or.reduce(drawn.masks), 224), np.zeros((224, 224), bool)
        )
    row = scored[0]["legrad"]
    assert (row["images"], row["masks"], row["test_images"], row["tuning_images"]) == (48, 48, 38, 10)
    assert row["pxap"] == pytest.approx(pxap(total), abs=1e-9)
    largest, any_contour = np.array(hits).swapaxes(0, 1)
    assert row["maxboxacc"] == pytest.approx(100 * (largest >= 0.5).mean(0).max())
    terms = [100 * (any_contour >= delta).mean(0).max() for delta in (0.3, 0.5, 0.7)]
    assert row["maxboxacc_v2"] == pytest.approx(np.mean(terms))


def test_controls_and_trivial_predictors_are_rows_and_the_network_is_named(atlas: Atlas, scored) -> None:
    rows = scored[0]
    kinds = {name: row["kind"] for name, row in rows.items()}
    assert kinds == {"legrad": "method", "center": "control", "uniform": "control"} | dict.fromkeys(
        TRIVIAL_BOXES, "control"
    )
    weights = atlas.run.model.weights.removeprefix("sha256:")[:12]
    assert {row["network"] for row in rows.values()} == {f"{Path(atlas.run.model.name).name} {weights}"}
    assert rows["legrad"]["pxap"] > rows["center"]["pxap"] > rows["uniform"]["pxap"]
    assert rows["uniform"]["maxboxacc"] == 0  # a constant map has the empty box only


def test_the_split_is_of_the_images_whose_keys_come_first(scored) -> None:
    out = scored[1]
    about = ScoringSpec.read((out / "about.json").read_bytes(), "about")
    keys = sorted((f"scene_{number:06d}" for number in range(48)), key=tuning_rank)[:10]
    assert about.tuning.keys == sha256("\n".join(sorted(keys)).encode())


def test_the_curves_hold_the_scores(scored) -> None:
    rows, out = scored
    lines = pq.read_table(out / "curves.parquet")
    assert lines.schema == CURVES
    points = [point for point in lines.to_pylist() if point["method"] == "legrad"]
    best = {name: max(p["value"] for p in points if p["curve"] == name) for name in ("largest50", "any30", "any70")}
    row = rows["legrad"]
    assert best == pytest.approx({"largest50": row["maxboxacc"], "any30": row["iou30"], "any70": row["iou70"]})
    largest50 = {point["threshold"]: point["value"] for point in points if point["curve"] == "largest50"}
    assert largest50[row["threshold_oracle"]] == best["largest50"]
    with Image.open(out / "curves.png") as image:
        assert image.format == "PNG"
        assert image.width > image.height > 300


def test_what_is_counted_is_not_counted_again(
    atlas: Atlas, world: SyntheticDataset, scored, tmp_path: Path, monkeypatch
) -> None:
    rows, out = scored
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / "localization.parquet").unlink()
    monkeypatch.setattr("pipeline.score.score_sources.score_shard", lambda *_: pytest.fail("counted again"))
    monkeypatch.setattr(localization_table, "plot_scores", plot_scores)
    again = score(atlas, read_truth(world.truth), methods=["legrad", "center", "uniform"], out=str(copy))
    assert rows_of(again) == rows
    files = [path.name for path in out.iterdir() if path.stem in ("localization", "curves")]
    assert len(files) == 6
    for name in files:
        assert (copy / name).read_bytes() == (out / name).read_bytes()
    fewer = score(atlas, read_truth(world.truth), methods=["center"], out=str(copy))
    assert rows_of(fewer)["center"] == rows["center"]
    assert "legrad" not in rows_of(fewer)


def test_a_method_asked_for_later_is_counted_alone(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path, monkeypatch
) -> None:
    truth = change(world, tmp_path, first(24))
    before = small(atlas, truth, tmp_path)
    seen: list[int] = []
    count_map = score_shard.count_map
    monkeypatch.setattr(score_shard, "count_map", lambda values, image: seen.append(1) or count_map(values, image))
    both = small(atlas, truth, tmp_path, methods=["attention", "legrad"])
    assert len(seen) == 24
    assert both["legrad"] == before["legrad"]
    record = DerivedCommit.read(next((tmp_path / "out" / "commits").iterdir()).read_bytes(), "x")
    assert record.items == (*TRIVIAL_BOXES, "legrad", "attention")
    assert record.counts["scored"] == 24


def test_a_lost_commit_is_made_again(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    truth = change(world, tmp_path, first(20))
    before = small(atlas, truth, tmp_path)
    commit = next((tmp_path / "out" / "commits").iterdir())
    data = commit.read_bytes()
    commit.unlink()
    assert small(atlas, truth, tmp_path) == before
    assert commit.read_bytes() == data


def test_truth_of_boxes_alone_has_no_pixel_scores(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    def boxes_only(content: dict) -> None:
        first(12)(content)
        for annotation in content["annotations"]:
            del annotation["segmentation"]

    row = small(atlas, change(world, tmp_path, boxes_only), tmp_path)["legrad"]
    assert (row["masks"], row["pxap"], row["iou"], row["pointing"]) == (0, None, None, None)
    assert row["maxboxacc_v2"] > 0


def test_a_box_that_reaches_over_the_border_is_cut(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    def wide(content: dict) -> None:
        first(12)(content)
        for annotation in content["annotations"]:
            del annotation["segmentation"]
            annotation["bbox"] = [-3.5, -2, 1000, 1000]

    rows = small(atlas, change(world, tmp_path, wide), tmp_path)
    assert rows["whole image"]["maxboxacc_v2"] == 100


def test_the_predicted_class(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    row = small(atlas, change(world, tmp_path, first(12)), tmp_path, target_kind="predicted")["legrad"]
    assert (row["target"], row["top5_loc"]) == ("predicted", None)
    assert row["top1_loc"] <= row["gt_known"]


def test_without_labels_the_predicted_class_has_hits_but_no_accuracy(spec: RunSpec, tmp_path: Path) -> None:
    unlabelled = spec.model_copy(update={"targets": ("predicted",)})
    atlas = of_keys(unlabelled, tmp_path, {"a": ["s0", "s1", "s2", "s3"]}, labelled=False)
    truth = boxed(tmp_path / "truth.json", [f"s{number}.jpg" for number in range(4)])
    row = rows_of(score(atlas, read_truth(truth), target_kind="predicted"))["random"]
    assert (row["images"], row["top1_loc"], row["top5_loc"]) == (4, None, None)
    assert row["gt_known"] is not None


def test_an_object_that_cannot_be_used_is_named_and_no_table_is_written(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    def flat(content: dict) -> None:
        first(12)(content)
        content["annotations"][3]["bbox"] = [0, 0, 5, -5]

    with pytest.raises(UsageError, match="no area in the image"):
        small(atlas, change(world, tmp_path, flat), tmp_path)
    assert not (tmp_path / "out" / "localization.parquet").exists()
    small(atlas, change(world, tmp_path, lambda content: first(12)(content)), tmp_path)  # mended: the same folder does


def test_other_scores_are_not_written_over(atlas: Atlas, world: SyntheticDataset, scored, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(scored[1], tmp_path / "copy"))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"holds .*target is 'label', not 'predicted'.* another --out"):
        score(atlas, read_truth(world.truth), "predicted", ["center"], out=str(copy))
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_another_grid_is_another_product(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    truth = change(world, tmp_path, first(12))
    row = small(atlas, truth, tmp_path, grid=ThresholdGrid(0.1))["legrad"]
    assert ScoringSpec.read((tmp_path / "out" / "about.json").read_bytes(), "about").grid_step == 0.1
    assert row["threshold_oracle"] in THRESHOLDS[::100]
    curves = pq.read_table(tmp_path / "out" / "curves.parquet").to_pylist()
    values = {p["threshold"]: p["value"] for p in curves if (p["method"], p["curve"]) == ("legrad", "largest50")}
    assert list(values) == THRESHOLDS[::100].tolist()
    assert (
        max(values.values())
        == row["maxboxacc"]
        <= small(atlas, truth, tmp_path, out=str(tmp_path / "all"))["legrad"]["maxboxacc"]
    )
    with pytest.raises(UsageError, match=r"grid_step is 0\.1, not 0\.001.*another --out"):
        small(atlas, truth, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"methods": ["gradcam"]}, "has no maps of 'gradcam'"),
        ({"target_kind": "top5"}, "has no target 'top5'"),
    ],
)
def test_what_is_not_there_is_named(atlas: Atlas, world: SyntheticDataset, arguments: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        score(**({"sources": atlas, "truth": read_truth(world.truth)} | arguments))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ATLAS", "--truth", "/nowhere.json"], "nowhere.json: No such file"),
        (["ATLAS", "--truth", "TRUTH", "--tune-atlas", "ATLAS"], "name the truth of its images with --tune"),
        (["ATLAS", "--truth", "TRUTH", "--tune-atlas", "/nowhere", "--tune", "TRUTH"], "is not an atlas"),
        (["/nowhere", "--truth", "TRUTH"], "is not an atlas"),
    ],
)
def test_a_path_that_holds_nothing_is_named(
    vitatlas, atlas: Atlas, world: SyntheticDataset, arguments: list[str], says: str
) -> None:
    paths = {"ATLAS": atlas.objects.url, "TRUTH": str(world.truth)}
    code, _, err = vitatlas("score", *(paths.get(argument, argument) for argument in arguments))
    assert code == 2
    assert says in err


def test_the_controls_are_those_of_the_registry() -> None:
    from pipeline.explain import methods
    from schemas.scores import is_control

    for name, method in methods.items():
        assert is_control(name) == (method.kind == "control"), name


def test_tables_of_an_audit_are_not_written_over(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text('{"run": "sha256:0", "target": "label", "methods": ["legrad"]}')
    with pytest.raises(UsageError, match=r"holds something else .*; name another --out"):
        score(atlas, read_truth(world.truth), out=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["about.json"]


def test_masks_without_an_object_count_as_background_in_pxap(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    """The reference pools the pixels of all masks, so that black ones only add false positives."""
    truths, run_ = read_truth(world.truth), atlas.run
    folder, total, black = tmp_path / "png", np.zeros((2, BINS), np.int64), 0
    folder.mkdir()
    for name in atlas.shard_names:
        shard = atlas.shard(name)
        maps = shard.maps("legrad", "label")
        for place, sample in enumerate(shard.samples.to_pylist()):
            mask = truths.by_key[sample["key"]].mask
            assert mask is not None
            if place % 3 == 0:
                mask, black = np.zeros_like(mask), black + 1
            Image.fromarray(mask.astype(np.uint8)).convert("P").save(folder / f"{sample['key']}.png")
            grid = resize_mask(mask, SIDE)
            seen = score_map(maps[place], visible_window(sample, run_.model.input_size))
            total += score_histogram(seen, grid, np.zeros_like(grid))
    table = score(atlas, read_truth(folder), "label", ["legrad"], out=str(tmp_path / "out"))
    (row,) = (row for row in table.to_pylist() if row["method"] == "legrad")
    assert row["without_object"] == black > 0
    assert row["images"] + black == sum(len(atlas.samples_of(name, ["key"])) for name in atlas.shard_names)
    assert row["pxap"] == pytest.approx(float(pxap(total)), abs=1e-9)
