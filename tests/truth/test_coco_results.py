"""Results of detectors and segmenters: which image they are of, which of them count, and what cannot be a mask."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from pipeline.truth import read_masks
from pipeline.truth.coco_results import is_results, parse_results
from schemas.errors import UsageError

FIRST, SECOND = np.zeros((2, 20, 30), bool)
FIRST[2:9, 3:12] = True
SECOND[5:15, 20:28] = True


def coded(mask: np.ndarray) -> dict[str, Any]:
    lengths = rle.encode(np.asfortranarray(mask, np.uint8))
    return {"size": lengths["size"], "counts": lengths["counts"].decode()}


def result(image: object, mask: np.ndarray | None = FIRST, **fields: object) -> dict[str, object]:
    segmentation = {} if mask is None else {"segmentation": coded(mask)}
    return {"image_id": image, "category_id": 1, **segmentation, **fields}


def write(folder: Path, content: object, name: str = "results.json") -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder / name


IMAGES = {"images": [{"id": 7, "file_name": "train/a.jpg", "width": 30, "height": 20}]}


def test_the_mask_of_an_image_is_the_union_of_its_results(tmp_path: Path) -> None:
    path = write(tmp_path, [result("a.jpg"), result("b/c.png", SECOND), result("a.jpg", SECOND)])
    masks = read_masks(path)
    assert list(masks) == ["a", "b/c"]
    assert np.array_equal(masks.by_key["a"].mask, FIRST | SECOND)
    assert np.array_equal(masks.by_key["b/c"].mask, SECOND)
    assert masks.by_key["a"].boxes.tolist() == [[3, 2, 11, 8], [20, 5, 27, 14]]
    assert not masks.by_key["a"].ignore.any()
    assert (masks.by_key["a"].width, masks.by_key["a"].height) == (30, 20)


def test_a_result_may_be_empty(tmp_path: Path) -> None:
    truth = read_masks(write(tmp_path, [result("a.jpg", np.zeros((20, 30), bool))])).by_key["a"]
    assert (truth.mask.shape, truth.mask.any(), truth.boxes.shape) == ((20, 30), False, (0, 4))


def test_scores_that_differ_need_a_least_one(tmp_path: Path) -> None:
    results = [result("a", score=0.9), result("a", SECOND, score=0.2), result("b", score=0.3)]
    path = write(tmp_path, results)
    with pytest.raises(UsageError, match="have different scores; say from which one on they are a mask by --min-score"):
        read_masks(path)
    masks = read_masks(path, min_score=0.3)
    assert np.array_equal(masks.by_key["a"].mask, FIRST)
    assert np.array_equal(masks.by_key["b"].mask, FIRST)
    high = read_masks(path, min_score=0.5)
    assert not high.by_key["b"].with_size(30, 20).mask.any()
    assert len({masks.digest, high.digest, read_masks(path, min_score=0.0).digest}) == 3
    assert np.array_equal(read_masks(write(tmp_path, results[:1])).by_key["a"].mask, FIRST)
    with pytest.raises(UsageError, match=r"result 0 has no score; write one, or leave out --min-score"):
        read_masks(write(tmp_path, [result("a")]), min_score=0.5)


def test_a_number_is_the_id_of_an_image_in_the_file_that_is_named(tmp_path: Path) -> None:
    path, images = write(tmp_path, [result(7)]), write(tmp_path, IMAGES, "instances.json")
    with pytest.raises(UsageError, match=r"image 7 is a number, .* name the COCO file that has these ids by --images"):
        read_masks(path)
    masks = read_masks(path, images)
    assert np.array_equal(masks.by_key["train/a"].mask, FIRST)
    other = write(tmp_path, {"images": [{**IMAGES["images"][0], "file_name": "b.jpg"}]}, "other.json")
    assert read_masks(path, other).digest != masks.digest
    with pytest.raises(UsageError, match=r"image 8 is not in .*instances.json; name the file that the ids are of"):
        read_masks(write(tmp_path, [result(8)]), images)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ([{"category_id": 1}], "result 0 has no image_id"),
        ([3], "result 0 has no image_id"),
        ([result("a", None, bbox=[1, 2, 3, 4])], "result 0, of a, has no segmentation; masks are needed"),
        ([result("a"), result("a", category_id=2)], "a has masks of the categories 1 and 2; leave those of one"),
        ([result("a"), result("a", SECOND[:9])], "result 1, of a, is 30×9 pixels, not 30×20 as its image"),
        ([result("a", segmentation={"counts": "0"})], "has run lengths without a size; write"),
        ([result("a.jpg"), result("a.png")], "two images have the key a; rename one"),
        ([result(True)], "result 0 has no image_id"),
        ([result("a", score="high")], "result 0: its score 'high' is not a finite number; correct it"),
        ([result("a"), result("b", score=10**400)], "result 1: its score 1000.* is not a finite number"),
    ],
)
def test_what_is_no_mask_is_refused(content: object, fault: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=fault):
        read_masks(write(tmp_path, content))


def test_run_lengths_of_another_size_than_the_image_are_refused(tmp_path: Path) -> None:
    images = write(tmp_path, IMAGES, "instances.json")
    with pytest.raises(UsageError, match="result 0, of train/a, is 30×9 pixels, not 30×20 as its image; resize it"):
        read_masks(write(tmp_path, [result(7, FIRST[:9])]), images)


def test_a_list_is_told_from_a_file_of_instances(tmp_path: Path) -> None:
    assert is_results(write(tmp_path, []))
    assert not is_results(write(tmp_path, {}))
    assert not is_results(tmp_path)
    (tmp_path / "results.json").write_bytes(b"\xef\xbb\xbf \n[]")
    assert is_results(tmp_path / "results.json")
    (tmp_path / "results.json").write_bytes(b"[1,")
    with pytest.raises(UsageError, match="is not a COCO file of results"):
        parse_results(tmp_path / "results.json")
    with pytest.raises(UsageError, match="is no file of COCO results; leave out --images"):
        read_masks(write(tmp_path, IMAGES), write(tmp_path, IMAGES, "images.json"))


def test_objects_of_several_categories_in_one_image_are_no_mask(tmp_path: Path) -> None:
    objects = [{**result(7), "id": place, "bbox": [3, 2, 9, 7], "category_id": place} for place in (1, 2)]
    path = write(tmp_path, IMAGES | {"annotations": objects}, "instances.json")
    with pytest.raises(UsageError, match="train/a has masks of the categories 1 and 2; leave those of one category"):
        read_masks(path)
    objects[1]["iscrowd"] = 1
    assert np.array_equal(read_masks(write(tmp_path, IMAGES | {"annotations": objects})).by_key["train/a"].mask, FIRST)
