"""A row for each image and method: what the table says can be computed from the rows once more."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from score.builders import change, first, rows_of

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.image.iou import box_iou
from pipeline.image.score_map import score_map
from pipeline.score import image_rows, score
from pipeline.score.aggregate import ChosenThresholds
from pipeline.score.box_metrics import contour_boxes, resize_boxes
from pipeline.score.counters import bootstrap_group
from pipeline.score.image_rows import MethodThresholds
from pipeline.score.score_shard import GridPrediction, ScoredImage
from pipeline.score.threshold_grid import ThresholdGrid
from pipeline.score.trivial_boxes import TRIVIAL_BOXES
from pipeline.store import Atlas, ObjectStore
from pipeline.store.verify_product import verify_product
from pipeline.truth import read_truth
from schemas.arrow import without_descriptions
from schemas.scores import ERROR_KINDS, IMAGE_ROWS

Rows = list[dict[str, Any]]
IMAGES = 30
"""In two shards."""


def read(out: Path) -> dict[str, Rows]:
    """Read the rows of each method as users do."""
    table = ds.dataset(out / "images" / "rows").to_table()
    assert table.schema.equals(without_descriptions(IMAGE_ROWS))
    rows: dict[str, Rows] = {}
    for row in table.to_pylist():
        rows.setdefault(row["method"], []).append(row)
    return rows


@pytest.fixture(scope="module")
def scored(atlas: Atlas, world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, str]:
    """The table of two methods by method, its folder, and the truth of a part of the images."""
    folder = tmp_path_factory.mktemp("rows")
    truth = change(world, folder, first(IMAGES))
    table = score(atlas, read_truth(truth), methods=["legrad", "uniform"], subset=True, out=str(folder / "out"))
    return rows_of(table), folder / "out", truth


def aggregate(rows: Rows) -> dict[str, float]:
    """The scores of the table, from the rows of a method."""
    tested = [row for row in rows if row["split"] == "test"]

    def share(of: Rows, condition: Any) -> float:
        return 100 * sum(map(condition, of)) / len(of)

    def v2(of: Rows, column: str) -> list[float]:
        deltas = (0.3, 0.5, 0.7)
        return [share(of, lambda row, i=i: row[column][i] >= deltas[i]) for i in range(3)]

    scores = dict(zip(("iou30", "iou50", "iou70"), v2(rows, "v2_ious_oracle"), strict=True))
    scores |= {
        "maxboxacc": share(rows, lambda row: row["iou_oracle"] >= 0.5),
        "maxboxacc_v2": sum(v2(rows, "v2_ious_oracle")) / 3,
        "gt_known": share(tested, lambda row: row["iou"] >= 0.5),
        "boxacc_v2": sum(v2(tested, "v2_ious")) / 3,
        "top1_cls": share(rows, lambda row: row["label_rank"] == 0),
        "top5_cls": share(rows, lambda row: row["label_rank"] < 5),
        "top1_loc": share(tested, lambda row: row["error"] == "correct"),
        "top5_loc": share(tested, lambda row: row["label_rank"] < 5 and row["iou"] >= 0.5),
    }
    scores |= {f"error_{kind}": share(tested, lambda row, kind=kind: row["error"] == kind) for kind in ERROR_KINDS[1:]}
    if rows[0]["iou_20"] is not None:
        scores["gt_known_20"] = share(rows, lambda row: row["iou_20"] >= 0.5)
        mask, found, shared = (sum(row[f"{name}_pixels"] for row in tested) for name in ("mask", "found", "shared"))
        scores["iou"] = 100 * shared / (mask + found - shared)
    return scores


def test_the_rows_give_the_figures_of_the_table(scored) -> None:
    table, out, _ = scored
    rows = read(out)
    assert set(rows) == set(table) == {"legrad", "uniform", *TRIVIAL_BOXES}
    for method, row in table.items():
        assert len(rows[method]) == row["images"] == IMAGES
        assert sum(each["split"] == "test" for each in rows[method]) == row["test_images"]
        computed = aggregate(rows[method])
        assert {name: row[name] for name in computed} == pytest.approx(computed, abs=1e-9), method
        assert {each["threshold"] for each in rows[method]} == {row["threshold"]}
    assert table["legrad"]["top1_loc"] > 0
    assert 0 < table["legrad"]["error_classification"] < 100


def test_a_row_has_the_box_of_the_map(atlas: Atlas, scored) -> None:
    table, out, truth = scored
    truths, threshold = read_truth(truth), table["legrad"]["threshold"]
    for row in read(out)["legrad"][::5]:
        gray = (score_map(atlas.map(row["key"], "legrad")) * 255).astype(np.uint8)
        boxes, largest = contour_boxes(gray, int(threshold * 255))
        true_boxes = resize_boxes(truths.by_key[row["key"]].boxes, row["width"], row["height"])
        ious = box_iou(boxes, true_boxes)
        assert row["box"] == boxes[largest].tolist()
        assert row["true_box"] == true_boxes[ious[largest].argmax()].tolist()
        assert row["iou"] == ious[largest].max()
        assert row["group"] == bootstrap_group(row["key"], row["split"] == "tuning")


def test_rows_of_a_method_are_kept_until_its_thresholds_change(atlas: Atlas, scored, monkeypatch) -> None:
    table, out, truth = scored
    before, described = read(out), []
    describe = image_rows.describe_image

    def record(*arguments: Any) -> dict[str, Any]:
        described.append(arguments[1])
        return describe(*arguments)

    monkeypatch.setattr(image_rows, "describe_image", record)
    given = {"methods": ["legrad", "uniform"], "subset": True, "out": str(out)}
    score(atlas, read_truth(truth), **given)
    assert not described
    more = rows_of(score(atlas, read_truth(truth), **given | {"methods": ["legrad", "uniform", "center"]}))
    assert described == ["center"] * IMAGES
    assert {method: rows for method, rows in read(out).items() if method != "center"} == before
    assert more["legrad"] == table["legrad"]
    fewer = score(atlas, read_truth(truth), **given)
    assert rows_of(fewer) == table
    assert read(out) == before
    verified = verify_product(ObjectStore(str(out)), atlas)
    assert (verified.faults, verified.strays, verified.finished) == ([], [], True)
    changed = next((out / "images" / "rows").iterdir())
    changed.write_bytes(b"")
    assert rows_of(score(atlas, read_truth(truth), **given)) == table
    assert read(out) == before


def test_a_grid_gives_the_rows_of_its_thresholds(atlas: Atlas, scored, tmp_path: Path) -> None:
    given = {"methods": ["legrad"], "subset": True, "out": str(tmp_path)}
    row = rows_of(score(atlas, read_truth(scored[2]), grid=ThresholdGrid(0.1), **given))["legrad"]
    computed = aggregate(read(tmp_path)["legrad"])
    assert {name: row[name] for name in computed} == pytest.approx(computed, abs=1e-9)
    assert {each["threshold"] for each in read(tmp_path)["legrad"]} == {row["threshold"]}
    assert round(row["threshold"] * 10) == pytest.approx(row["threshold"] * 10)


def test_a_row_lacks_what_is_not_defined() -> None:
    boxes, nothing = np.array([[10, 10, 99, 99]]), np.zeros((224, 224), bool)
    image = ScoredImage(3, boxes, None, nothing, None, (0, 0, 1, 1), "a", (50, 40))
    best = ChosenThresholds(7, (7, 8, 9), None)
    thresholds = MethodThresholds(best, best, None, has_maps=False, has_kinds=False)
    prediction = GridPrediction(boxes=np.repeat(boxes, 255, 0))
    row = image_rows.describe_image("psol", "psol", prediction, image, thresholds)
    assert (row["box"], row["iou"], row["v2_ious"]) == ([10, 10, 99, 99], 1, [1, 1, 1])
    assert (row["threshold"], row["label_rank"], row["width"], row["split"]) == (None, None, 50, "test")
    assert {"error", "iou_20", "mask_pixels"}.isdisjoint(row)
    untuned = image_rows.describe_image("psol", "psol", prediction, image, replace(thresholds, tuned=None))
    assert "box" not in untuned
    assert untuned["iou_oracle"] == 1
    kinds = replace(thresholds, has_kinds=True)
    assert image_rows.describe_image("psol", "psol", prediction, image, kinds)["error"] == "classification"
