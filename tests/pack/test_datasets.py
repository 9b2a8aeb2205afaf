"""Each dataset packs to the samples, class ids and truth that its own files say."""

import json
from pathlib import Path

import numpy as np
import pack_sources as sources
import pytest
from pack_sources import boxes_of, classes_of, labels_of, left_out_of, read_samples
from support import jpeg

from pipeline.pack import pack
from pipeline.pack.class_order import describe_first_difference
from pipeline.truth import read_truth
from schemas.errors import UsageError


def test_cub_boxes_are_those_of_the_reference_and_masks_are_where_most_annotators_agree(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack("cub", sources.cub(tmp_path / "CUB_200_2011").parent, out, "test")
    first, second = "001_Black_footed_Albatross/A_0001_1", "002_Ani/B_0001_3"
    assert classes_of(out) == ["001.Black_footed_Albatross", "002.Ani"]
    assert sorted(labels_of(out).values()) == [0, 1]
    first, second = sorted(labels_of(out))
    assert boxes_of(out) == {first: [[6, 2, 26, 17]], second: [[1, 3, 39, 29]]}  # metadata/CUB: x + width, cut
    mask = read_truth(out / "truth").by_key[first].mask
    assert mask is not None
    expected = np.zeros((30, 40), bool)
    expected[5:15, 8:20] = True
    assert np.array_equal(mask, expected)
    with pytest.raises(UsageError, match=r"several splits; name one by --split: train, test"):
        pack("cub", tmp_path / "CUB_200_2011", tmp_path / "other")


@pytest.mark.parametrize("layout", ["flat", "kaggle"])
def test_validation_labels_are_those_of_the_devkits_own_order(tmp_path: Path, layout: str) -> None:
    out = tmp_path / "out"
    pack("imagenet", sources.imagenet(tmp_path / "in", layout), out, "val")
    assert classes_of(out) == ["n01440764", "n02100735", "n02119789"]
    # The ground truth says 2, 1, 3 in the order of the kit: n01440764, n02119789, n02100735.
    assert labels_of(out) == {f"ILSVRC2012_val_0000000{n}": label for n, label in ((1, 0), (2, 2), (3, 1))}
    assert boxes_of(out) == {f"ILSVRC2012_val_0000000{n}": [[0, 3, 9 + n, 29]] for n in (1, 2, 3)}


@pytest.mark.parametrize("layout", ["folders", "tar"])
def test_train_images_come_from_folders_or_from_the_tars_of_tars(tmp_path: Path, layout: str) -> None:
    out = tmp_path / "out"
    source = sources.imagenet(tmp_path / "in", layout)
    pack("imagenet", source, out, "train")
    assert labels_of(out) == {
        f"{name}/{name}_{i}": label for i, (name, label) in enumerate(zip(sources.DEVKIT_ORDER, (2, 0, 1), strict=True))
    }
    assert read_samples(out)["n01440764/n01440764_1"]["jpeg"] == jpeg(1, sources.SIZE)
    assert "class 1 is n02100735 here and n01443537 in imagenet-1k" in (describe_first_difference(out) or "")


def test_voc_has_several_labels_masks_and_ignored_objects(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack("voc", sources.voc(tmp_path / "in"), out, "val")
    packed = read_samples(out)
    assert json.loads(packed["2008_000001"]["json"])["classes"] == ["cat", "person"]
    assert packed["2008_000001"]["cls"] == b"7 14"
    assert packed["2008_000002"]["cls"] == b"11"  # the difficult sofa is no label
    truth = read_truth(out / "truth").by_key
    assert truth["2008_000001"].boxes.tolist() == [[0, 0, 9, 9], [10, 0, 39, 29]]
    assert truth["2008_000002"].boxes.tolist() == [[1, 2, 19, 29]]
    mask, ignore = truth["2008_000001"].mask, truth["2008_000001"].ignore
    assert mask is not None
    assert (mask.sum(), ignore.sum()) == (100 + 900, 20)


def test_coco_keeps_objects_and_numbers_categories_without_gaps(tmp_path: Path) -> None:
    out, source = tmp_path / "out", sources.coco(tmp_path / "in")
    pack("coco", source, out)
    assert classes_of(out) == ["car", "dog"]
    packed = read_samples(out)
    assert {key: json.loads(members["json"]).get("labels") for key, members in packed.items()} == {
        "0007": [0, 1],
        "0009": None,
    }
    assert packed["0007"]["cls"] == b"1 1"  # of two classes, both; 0 1 would have two readings
    assert left_out_of(out) == {"0011.jpg": "is not in instances_val2017.json"}
    direct = read_truth(source / "annotations/instances_val2017.json").by_key
    ours = read_truth(out / "truth").by_key
    for key in ("0007", "0009"):
        assert np.array_equal(ours[key].boxes, direct[key].boxes)
        assert np.array_equal(ours[key].ignore, direct[key].ignore)
    mask, expected = ours["0007"].mask, direct["0007"].mask
    assert mask is not None
    assert np.array_equal(mask, expected)


def coco_file(path: Path, names: list[str], folder: Path, ids: list[int] | None = None) -> Path:
    """A file with a box in each image, and the images."""
    numbers = ids or list(range(1, len(names) + 1))
    images = [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in zip(numbers, names, strict=True)]
    items = [{"id": n, "image_id": n, "category_id": 1, "bbox": [n, 2, 9, 8]} for n in numbers]
    content = {
        "images": images,
        "annotations": items,
        "categories": [{"id": 0, "name": "pets"}, {"id": 1, "name": "cat"}],
    }
    for number, name in enumerate(set(names)):
        sources.write(folder / name, jpeg(number, sources.SIZE))
    return sources.write(path, json.dumps(content))


def test_coco_files_of_other_tools_are_found_by_their_names_for_a_split(tmp_path: Path) -> None:
    root = tmp_path / "roboflow"
    for split in ("train", "valid"):
        coco_file(root / split / "_annotations.coco.json", ["a_jpg.rf.1c.jpg", "b.jpg"], root / split)
    with pytest.raises(UsageError, match="has several splits; name one by --split: train, valid"):
        pack("coco", root, tmp_path / "none")
    for number, (path, split) in enumerate(
        [(root, "valid"), (root / "valid", None), (root / "valid" / "_annotations.coco.json", None)]
    ):
        record, _ = pack("coco", path, tmp_path / f"{number}", split)
        assert record.split == "valid"
        assert boxes_of(tmp_path / f"{number}") == {"a_jpg_rf_1c": [[1, 2, 9, 9]], "b": [[2, 2, 10, 9]]}
        assert left_out_of(tmp_path / f"{number}") == {}
    other = coco_file(tmp_path / "fiftyone" / "labels.json", ["a.jpg"], tmp_path / "fiftyone" / "data")
    assert pack("coco", other, tmp_path / "labels")[0].split == "labels"
    prefixed = coco_file(
        tmp_path / "p" / "annotations" / "my instances.json", ["train/a.jpg"], tmp_path / "p" / "images"
    )
    with pytest.raises(UsageError, match="is not named by a split; give one of letters, digits, - and _ by --split"):
        pack("coco", prefixed, tmp_path / "no")
    pack("coco", prefixed, tmp_path / "prefixed", "mine")
    assert boxes_of(tmp_path / "prefixed") == {"train/a": [[1, 2, 9, 9]]}


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (["a.jpg", "b.jpg"], [1, 1], "two images have the id 1"),
        (["a.jpg", "a.jpg"], [1, 2], "two images have the file_name 'a.jpg'"),
    ],
)
def test_two_images_of_one_id_or_name_in_coco_are_refused(
    tmp_path: Path, names: list[str], ids: list[int], message: str
) -> None:
    file = coco_file(tmp_path / "in" / "labels.json", names, tmp_path / "in", ids)
    with pytest.raises(UsageError, match=message):
        pack("coco", file, tmp_path / "out")


@pytest.mark.parametrize("masks", [False, True])
def test_lists_of_wsolevaluation_keep_their_truth_under_the_new_keys(tmp_path: Path, masks: bool) -> None:
    out = tmp_path / "out"
    lists = sources.wsol_lists(tmp_path / "in", masks)
    pack("lists", lists, out, "val")
    assert labels_of(out) == {"val/n1/a": 0, "val/n1/b_c": 1}
    assert left_out_of(out) == {"val/n2/gone.jpg": "does not exist"}
    truth = read_truth(out / "truth").by_key
    assert set(truth) == set(labels_of(out))
    if masks:
        assert truth["val/n1/b_c"].with_size(40, 30).boxes.size
    else:
        assert truth["val/n1/b_c"].boxes.tolist() == [[1, 2, 20, 25]]


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        (
            "cub",
            "images/002.Ani/B_0001_3.jpg",
            {"002.Ani/B_0001_3.jpg": "is named in images.txt, but there is no such image"},
        ),
        (
            "validation",
            "val/ILSVRC2012_val_00000002.JPEG",
            {"ILSVRC2012_val_00000002.xml": "has boxes of an image that is not there"},
        ),
        (
            "kaggle",
            "Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG",
            {"ILSVRC2012_val_00000002.xml": "has boxes of an image that is not there"},
        ),
        ("voc", "JPEGImages/2008_000002.jpg", {"2008_000002": "has no image in JPEGImages"}),
        ("voc", "Annotations/2008_000002.xml", {"2008_000002": "has no XML file in Annotations"}),
        ("coco", "val2017/0009.jpg", {"0009.jpg": "is in instances_val2017.json, but there is no such image"}),
        ("lists of boxes", "val/n1/b.c.jpg", {"val/n1/b.c.jpg": "does not exist"}),
        ("lists of masks", "val/n1/b.c.jpg", {"val/n1/b.c.jpg": "does not exist"}),
    ],
)
def test_truth_of_images_that_are_not_there_is_listed(
    name: str, file: str, said: dict[str, str], tmp_path: Path
) -> None:
    kind, source, split = sources.ALL[name](tmp_path / "in")
    (path,) = (path for path in (tmp_path / "in").rglob("*") if path.as_posix().endswith(f"/{file}"))
    path.unlink()
    _, before = pack(*sources.ALL[name](tmp_path / "whole")[:2], tmp_path / "all", split)
    record, samples = pack(kind, source, tmp_path / "out", split)
    assert (record.images, samples) == (before - 1, before - 1)
    assert left_out_of(tmp_path / "out") == left_out_of(tmp_path / "all") | said
    assert set(boxes_of(tmp_path / "out")) == set(read_samples(tmp_path / "out"))


def test_xml_boxes_in_fractions_of_the_image_are_refused(tmp_path: Path) -> None:
    source = sources.imagenet(tmp_path / "in", "flat")
    sides = "<xmin>0.1</xmin><ymin>0</ymin><xmax>0.6</xmax><ymax>1</ymax>"
    box = f"<object><name>n01440764</name><bndbox>{sides}</bndbox></object>"
    file = source / "ILSVRC2012_bbox_val_v3" / "val" / "ILSVRC2012_val_00000001.xml"
    sources.write(file, f"<annotation>{box}</annotation>")
    with pytest.raises(UsageError, match="as fractions of an image do; write pixels"):
        pack("imagenet", source, tmp_path / "out", "val")


def test_boxes_outside_of_the_image_and_contradicting_sizes_are_listed(tmp_path: Path) -> None:
    source, out = sources.imagenet(tmp_path / "in", "flat"), tmp_path / "out"
    folder = source / "ILSVRC2012_bbox_val_v3" / "val"
    sources.write(
        folder / "ILSVRC2012_val_00000001.xml",
        sources.voc_xml([("n01440764", (50, 3, 60, 9)), ("n01440764", (1, 3, 6, 9))]),
    )
    sources.write(folder / "ILSVRC2012_val_00000002.xml", sources.voc_xml([("n01440764", (1, 3, 6, 9))], (999, 30)))
    sources.write(folder / "ILSVRC2012_val_00000099.xml", sources.voc_xml([("n01440764", (1, 3, 6, 9))]))
    pack("imagenet", source, out, "val")
    assert left_out_of(out) == {
        "ILSVRC2012_val_00000001.JPEG": "an object is left out of the truth: its box 50,3,11,7 is outside",
        "ILSVRC2012_val_00000002.JPEG": "its annotation says 999×30 pixels, but it has 40×30",
        "ILSVRC2012_val_00000099.xml": "has boxes of an image that is not there",
    }
    assert boxes_of(out)["ILSVRC2012_val_00000001"] == [[1, 3, 6, 9]]
