"""Masks as COCO, read by the libraries that people evaluate with."""

import json
from pathlib import Path

import faster_coco_eval
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from some_labels import CONTEXT, LABELS, MASKED, NAMED, box, written

from pipeline.label.formats import LABEL_FORMATS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "instances.json"
    path.write_bytes(written(LABEL_FORMATS["coco"], NAMED)["coco/instances.json"])
    return path


@pytest.mark.parametrize("library", [COCO, faster_coco_eval.COCO])
def test_masks_regions_to_ignore_classes_and_boxes_come_back(file: Path, library: type) -> None:
    coco = library(str(file))
    assert [image["id"] for image in coco.dataset["images"]] == [each.sample["row"] for each in MASKED]
    ids = [each["id"] for each in coco.dataset["annotations"]]
    assert len(ids) == len(set(ids))
    assert min(ids) > 0
    for label in MASKED:
        (image,) = coco.loadImgs([label.sample["row"]])
        assert (image["width"], image["height"]) == (label.sample["width"], label.sample["height"])
        assert image["file_name"] == label.sample["member"]
        for crowd, mask in enumerate((label.mask, label.ignore)):
            found = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]], iscrowd=bool(crowd)))
            assert len(found) == mask.any()
            for each in found:
                assert np.array_equal(coco.annToMask(each), mask)
                assert each["category_id"] == label.class_id + 1
                assert each["bbox"] == box(mask)
                assert each["area"] == mask.sum()
                assert coco.cats[each["category_id"]]["name"] == NAMED.class_name(label.class_id)


@pytest.mark.parametrize(
    ("library", "judge"), [(COCO, COCOeval), (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster)]
)
def test_masks_against_themselves_are_perfect_and_what_is_ignored_does_not_count(
    file: Path, library: type, judge: type
) -> None:
    coco = library(str(file))
    found = [
        {name: each[name] for name in ("image_id", "category_id", "segmentation")} | {"score": 1.0}
        for each in coco.dataset["annotations"]
    ]
    result = judge(coco, coco.loadRes(found), "segm")
    result.evaluate()
    result.accumulate()
    result.summarize()
    assert result.stats[0] == pytest.approx(1)


def test_readers_that_expect_category_ids_from_one_find_the_class_of_every_mask(file: Path) -> None:
    """Ultralytics takes the category id - 1 as class, and leaves crowds out; datumaro knows no category 0."""
    content = json.loads(file.read_text())
    key_by_image = {each["id"]: each["file_name"] for each in content["images"]}
    masks = [each for each in content["annotations"] if not each["iscrowd"]]
    found = {key_by_image[each["image_id"]]: each["category_id"] - 1 for each in masks}
    assert found == {each.sample["member"]: each.class_id for each in MASKED if each.boxes}
    assert 0 in found.values()
    assert {each["id"]: each["name"] for each in content["categories"]} == {
        each.class_id + 1: NAMED.class_name(each.class_id) for each in MASKED
    }


def test_all_tars_together_are_their_parts() -> None:
    objects = written(LABEL_FORMATS["coco"], NAMED)
    parts = [json.loads(objects[f"coco/shards/{shard}.json"]) for shard in LABELS]
    merged = json.loads(objects["coco/instances.json"])
    for name in ("images", "annotations"):
        assert merged[name] == parts[0][name] + parts[1][name]
    assert [each["id"] for each in merged["categories"]] == [1, 4, 8, 301, 999]
    assert merged["info"] == parts[0]["info"] == {"description": "pseudo-masks", "policy": CONTEXT.policy_hash}
