"""Scores of an atlas: the truth that is read, what it is compared with, and mistakes in it."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as rle

from pipeline.demo.tour import POLICY
from pipeline.demo.world import DEMO, World, scene
from pipeline.label import labels_of
from pipeline.score import read_truth, score
from pipeline.score.localization import BoxCounter, PixelCounter, resize_boxes, resize_mask, score_map
from pipeline.score.masks import mask_iou
from pipeline.store import Atlas
from schemas.errors import UsageError
from schemas.scores import LOCALIZATION


def test_scores_are_those_of_the_protocol_on_the_maps_and_the_drawn_truth(atlas: Atlas, world: World) -> None:
    """Truth from the scene itself, not from the file."""
    boxes, pixels = BoxCounter(), PixelCounter()
    for number in range(48):
        drawn = scene(DEMO, 0, number)
        values = score_map(atlas.map(f"scene_{number:06d}", "legrad"))
        corners = []
        for mask in drawn.masks:
            rows, columns = np.nonzero(mask)
            corners.append([columns.min(), rows.min(), columns.max(), rows.max()])
        height, width = drawn.image.shape[:2]
        boxes.add(values, resize_boxes(np.array(corners), width, height))
        pixels.add(values, resize_mask(np.logical_or.reduce(drawn.masks)))
    table = score(atlas.objects.url, str(world.truth))
    assert table.schema == LOCALIZATION
    row = next(row for row in table.to_pylist() if row["method"] == "legrad")
    assert row["images"] == 48
    assert row["pxap"] == pytest.approx(pixels.pxap, abs=1e-9)
    assert row["maxboxacc"] == boxes.max_box_acc
    assert row["maxboxacc_v2"] == pytest.approx(boxes.max_box_acc_v2)
    kept = pq.read_table(Path(atlas.objects.url) / "scores" / "localization-label.parquet")
    assert kept.equals(table)


def test_only_the_methods_that_are_asked_for(atlas: Atlas, world: World) -> None:
    table = score(atlas.objects.url, str(world.truth / "instances.json"), "predicted", ["center"])
    assert [(row["method"], row["target"]) for row in table.to_pylist()] == [("center", "predicted")]


def change(world: World, tmp_path: Path, how) -> str:
    content = json.loads((world.truth / "instances.json").read_text())
    how(content)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return str(tmp_path / "truth.json")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda c: c["images"].pop(30), "scene_000030: the truth has no such picture"),
        (lambda c: c["images"][5].update(width=7), r"scene_000005: is \d+×\d+ pixels, but 7×\d+ in the truth"),
        (lambda c: c.pop("annotations"), "is not a COCO file"),
        (lambda c: c["annotations"][0].pop("image_id"), "is not a COCO file"),
        (lambda c: c["images"].append(dict(c["images"][7], id=99)), "two pictures have the key scene_000007"),
        (lambda c: c["annotations"][3].update(bbox=[0, 0, 0, 5]), "the bbox of annotation 4 .* no area in the picture"),
        (lambda c: c["annotations"][3].update(bbox=[5000, 0, 4, 5]), "no area in the picture"),
        (lambda c: c["annotations"][3].update(bbox=[1, 2, 3]), "the bbox of annotation 4 cannot be used"),
        (lambda c: c["annotations"][3].update(bbox=["x", 2, 3, 4]), "the bbox of annotation 4 cannot be used"),
        (lambda c: c["annotations"][3].update(bbox=[float("nan"), 2, 3, 4]), "the bbox of annotation 4 cannot be used"),
        (lambda c: c["annotations"][3].pop("bbox"), "the bbox of annotation 4 cannot be used"),
        (lambda c: c["annotations"][3].update(segmentation="x"), "the segmentation of annotation 4 cannot be used"),
        (lambda c: c["annotations"][3].update(segmentation=[[1, 2, 3, 4]]), "the segmentation of annotation 4"),
        (lambda c: c["annotations"][3].update(segmentation={"size": [3, 3], "counts": [9]}), "not that of the picture"),
        (lambda c: c.update(annotations=[]), "has no sample with maps and an object"),
    ],
)
def test_a_mistake_in_the_truth_is_named(atlas: Atlas, world: World, tmp_path: Path, how, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        score(atlas.objects.url, change(world, tmp_path, how), methods=["center"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"truth": "/nowhere.json"}, "nowhere.json: No such file"),
        ({"methods": ["gradcam"]}, "has no maps of 'gradcam'"),
        ({"target": "top5"}, "has no target 'top5'"),
    ],
)
def test_what_is_not_there_is_named(atlas: Atlas, world: World, arguments: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        score(atlas.objects.url, **({"truth": str(world.truth)} | arguments))


def test_a_box_that_reaches_over_the_border_is_cut(atlas: Atlas, world: World, tmp_path: Path) -> None:
    def wide(content: dict) -> None:
        for each in content["annotations"]:
            each["bbox"] = [-3.5, -2, 1000, 1000]

    row = score(atlas.objects.url, change(world, tmp_path, wide), methods=["uniform"]).to_pylist()[0]
    assert row["maxboxacc"] == 0  # a constant map has the empty box only


def test_truth_of_boxes_alone_has_no_pxap(atlas: Atlas, world: World, tmp_path: Path) -> None:
    def boxes_only(content: dict) -> None:
        for each in content["annotations"]:
            del each["segmentation"]

    row = score(atlas.objects.url, change(world, tmp_path, boxes_only), methods=["legrad"]).to_pylist()[0]
    assert row["pxap"] is None
    assert row["maxboxacc_v2"] > 0


def test_every_coding_of_coco_masks_is_read(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 10:20] = 1
    packed = rle.encode(np.asfortranarray(mask))
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    polygon = [[10, 5, 20, 5, 20, 15, 10, 15]]
    codings = [
        {"size": packed["size"], "counts": packed["counts"].decode()}, {"size": [20, 30], "counts": counts}, polygon
    ]  # fmt: skip
    for coding in codings:
        each = {"id": 1, "image_id": 4, "category_id": 1, "segmentation": coding, "bbox": [10, 5, 10, 10]}
        crowd = each | {"id": 2, "iscrowd": 1, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
        content = {
            "images": [{"id": 4, "file_name": "a/b.jpg", "width": 30, "height": 20}],
            "annotations": [each, crowd],
        }
        (tmp_path / "instances.json").write_text(json.dumps(content))
        truth = read_truth(tmp_path)["a/b"]
        assert np.array_equal(truth.mask, mask.astype(bool))
        assert truth.boxes.tolist() == [[74, 56, 141, 156]]
        assert truth.ignore.sum() == 16


def test_mask_iou_is_the_mean_of_overlaps(atlas: Atlas, world: World) -> None:
    truth = read_truth(world.truth)
    overlaps = []
    for tar in atlas.commits:
        for label in labels_of(atlas, tar, POLICY):
            real = truth[label.sample["key"]].mask
            overlaps.append((label.mask & real).sum() / (label.mask | real).sum())
    assert mask_iou(atlas, POLICY, truth) == pytest.approx(100 * np.mean(overlaps))
