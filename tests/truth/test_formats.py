"""What is written in a format is read back; and what other programs make of the same files."""

import json
import pickle
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from support import examples
from truth.writers import WRITERS, Drawn, drawn, save, write_coco, write_wsol_masks

from pipeline.label import LABEL_FORMATS, iter_labels
from pipeline.label.formats.base import ExportContext
from pipeline.store import Atlas
from pipeline.truth import read_truth
from pipeline.truth.registry import TRUTH_FORMATS
from schemas.policy import Policy, Threshold


@st.composite
def images(draw: st.DrawFn) -> list[Drawn]:
    """Up to three images of up to 12 × 12 pixels; 9 is ignored, other numbers are objects."""
    images = []
    for number in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
        values = draw(arrays(np.int64, shape, elements=st.sampled_from([0, 0, 1, 2, 3, 9])))
        values[0, 0] = 1
        present = [value for value in range(1, 4) if (values == value).any()]
        objects = sum(place * (values == value) for place, value in enumerate(present, 1))
        images.append(Drawn(f"n{number % 2}/p{number}", np.asarray(objects), values == 9))
    return images


@pytest.mark.parametrize("kind", WRITERS)
@examples(30)
@given(made=images())
def test_what_is_written_is_read(kind: str, made: list[Drawn]) -> None:
    writer = WRITERS[kind]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer.write(folder, made)
        truths = pickle.loads(pickle.dumps(read_truth(folder / writer.file)))
        assert sorted(truths) == sorted(image.key for image in made)
        for whole in made:
            seen, truth = writer.seen(whole), truths.find(whole.key)
            assert (truth.width, truth.height) == (seen.size if writer.sizes else (None, None))
            for sized in (truth, truth.with_size(*seen.size)):
                assert sized.boxes.dtype == np.int64
                assert sized.boxes.tolist() == seen.boxes
                assert (sized.mask is None) == (not writer.masks)
                assert sized.mask is None or np.array_equal(sized.mask, seen.objects > 0)
                ignore = seen.ignore if writer.ignore else np.zeros_like(seen.ignore)
                assert np.array_equal(np.broadcast_to(sized.ignore, ignore.shape), ignore)
            assert sized.ignore.shape == seen.objects.shape
            assert (sized.width, sized.height) == seen.size


def test_every_format_of_the_registry_is_written() -> None:
    elsewhere = {"points", "voc", "imagenet_segmentation"}  # test_class_truth.py, test_imagenet_segmentation.py
    assert {writer.format for writer in WRITERS.values()} == set(TRUTH_FORMATS) - elsewhere


@pytest.mark.parametrize("kind", WRITERS)
def test_each_is_recognised_as_what_it_is_and_as_nothing_that_comes_before(kind: str, tmp_path: Path) -> None:
    writer = WRITERS[kind]
    writer.write(tmp_path, [drawn()])
    matching = [name for name, truth_format in TRUTH_FORMATS.items() if truth_format.matches(tmp_path / writer.file)]
    assert matching[0] == writer.format


def test_coco_is_read_as_its_own_tools_read_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path, [drawn()])
    reference, truth = COCO(str(tmp_path / "instances.json")), read_truth(tmp_path).find("n01/p0")
    by_crowd = {crowd: reference.loadAnns(reference.getAnnIds(iscrowd=crowd)) for crowd in (False, True)}
    masks = {
        crowd: [reference.annToMask(annotation) for annotation in annotations]
        for crowd, annotations in by_crowd.items()
    }
    assert np.array_equal(truth.mask, np.logical_or.reduce(masks[False]))
    assert np.array_equal(truth.ignore, np.logical_or.reduce(masks[True]))
    sides = np.array([annotation["bbox"] for annotation in by_crowd[False]])
    assert np.array_equal(truth.boxes, np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:] - 1], 1))
    assert capsys.readouterr().out


def test_every_coding_of_coco_masks_is_read(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 10:20] = 1
    packed = rle.encode(np.asfortranarray(mask))
    flat = mask.T.ravel()
    counts = np.diff([0, *np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist(), flat.size]).tolist()
    polygon = [[10, 5, 20, 5, 20, 15, 10, 15]]
    packed["counts"] = packed["counts"].decode()
    for coding in (packed, {"size": [20, 30], "counts": counts}, polygon):
        annotation = {"id": 1, "image_id": 4, "category_id": 1, "segmentation": coding, "bbox": [10, 5, 10, 10]}
        crowd = annotation | {"id": 2, "iscrowd": 1, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
        image = {"id": 4, "file_name": "./a/b.jpg", "width": 30, "height": 20}
        (tmp_path / "instances.json").write_text(json.dumps({"images": [image], "annotations": [annotation, crowd]}))
        truth = read_truth(tmp_path).find("a/b")
        assert np.array_equal(truth.mask, mask.astype(bool))
        assert truth.boxes.tolist() == [[10, 5, 19, 14]]
        assert truth.ignore.sum() == 16


def test_labels_of_ours_are_truth_with_their_ignored_pixels(atlas: Atlas, tmp_path: Path) -> None:
    policy = Policy(
        name="p",
        methods=("legrad",),
        threshold=Threshold(kind="otsu"),
        background_threshold=Threshold(kind="otsu", scale=0.5),
    )
    shard = next(iter(atlas.commits))
    labels = list(iter_labels(atlas, shard, policy))
    ((_, content),) = LABEL_FORMATS["coco"].export(shard, labels, ExportContext("sha256:0"))
    (tmp_path / "instances.json").write_bytes(content)
    truths = read_truth(tmp_path)
    for label in labels:
        truth = truths.find(label.sample["key"])
        assert np.array_equal(truth.mask, label.mask)
        assert np.array_equal(truth.ignore, label.ignore)
    assert sum(label.ignore.any() for label in labels) > 20


@pytest.mark.parametrize("where", [".", "..", "../../../dataset/OpenImages"])
def test_masks_are_found_where_the_reference_has_them(where: str, tmp_path: Path) -> None:
    metadata = tmp_path / "metadata" / "OpenImages" / "val"
    metadata.mkdir(parents=True)
    made = drawn()
    write_wsol_masks(metadata, [made], sizes=False)
    root = metadata / where
    root.mkdir(parents=True, exist_ok=True)
    if where != ".":
        (metadata / "n01").rename(root / "n01")
    (metadata / "image_sizes.txt").unlink()
    assert np.array_equal(read_truth(metadata).find("n01/p0").mask, made.objects > 0)


def test_masks_are_those_of_the_reference_evaluator(tmp_path: Path) -> None:
    """Whatever is not black; all objects together; what is ignored but where an object is. Nearest pixel."""
    gray = np.arange(100, dtype=np.uint8).reshape(10, 10) // 40
    save(tmp_path / "a.png", gray)
    save(tmp_path / "b.png", Image.fromarray(np.eye(10, dtype=np.uint8)).convert("P"))
    save(tmp_path / "rest.png", np.ones((10, 10), bool))
    (tmp_path / "image_ids.txt").write_text("x.jpg")
    (tmp_path / "localization.txt").write_text("x.jpg,a.png,rest.png\nx.jpg,b.png,")
    truth = read_truth(tmp_path).find("x")
    read = [cv2.imread(str(tmp_path / name), cv2.IMREAD_GRAYSCALE) > 0.5 for name in ("a.png", "rest.png")]
    objects = read[0] | np.eye(10, dtype=bool)
    assert np.array_equal(truth.mask, objects)
    assert np.array_equal(truth.ignore, read[1] & ~objects)
    larger = truth.with_size(25, 25)
    expected = cv2.resize(objects.astype(np.uint8), (25, 25), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(larger.mask, expected.astype(bool))
    assert larger.boxes[0].tolist() == [0, 10, 24, 24]


def test_boxes_that_reach_over_the_border_are_cut_as_soon_as_the_size_is_known(tmp_path: Path) -> None:
    (tmp_path / "boxes.txt").write_text("image_id,x0,y0,x1,y1\n0/5.jpeg,158,-2.5,500,250\n0/5.jpeg,0,0,1,1\n")
    truth = read_truth(tmp_path / "boxes.txt").find("0/5")
    assert truth.boxes.tolist() == [[158, 0, 500, 250], [0, 0, 1, 1]]
    assert truth.with_size(500, 200).boxes.tolist() == [[158, 0, 499, 199], [0, 0, 1, 1]]
    (tmp_path / "image_ids.txt").write_text("0/5.jpeg\n")
    (tmp_path / "image_sizes.txt").write_text("0/5.jpeg,500,200\n")
    (tmp_path / "localization.txt").write_text("0/5.jpeg,158,-2.5,500,250\r\n\n0/5.jpeg,0,0,1,1\r\n")
    assert read_truth(tmp_path).find("0/5").boxes.tolist() == [[158, 0, 499, 199], [0, 0, 1, 1]]


def test_numbers_of_xml_are_kept_and_a_part_of_an_object_is_none(tmp_path: Path) -> None:
    """(111, 108, 441, 193) of 500 × 375 pixels is what wsolevaluation has of ILSVRC2012_val_00000001."""
    box = "<bndbox><xmin>111</xmin><ymin>108</ymin><xmax>441</xmax><ymax>193</ymax></bndbox>"
    part = f"<part>{box.replace('111', '120')}</part>"
    (tmp_path / "ILSVRC2012_val_00000001.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?><annotation><size><width>500</width><height>375</height></size>'
        f"<object>{box}{part}</object></annotation>"
    )
    (tmp_path / "without_size.xml").write_text(f"<annotation><object>{box}</object></annotation>")
    truths = read_truth(tmp_path)
    assert truths.find("n01440764/ILSVRC2012_val_00000001").boxes.tolist() == [[111, 108, 441, 193]]
    assert truths.find("without_size").width is None


def test_a_mask_goes_to_the_grid_from_its_own_size_as_the_reference_has_it(tmp_path: Path) -> None:
    """Resize in one step: a second step through the image's size would take other nearest pixels."""
    rng = np.random.default_rng(0)
    planes = {name: rng.random((683, 1024)) < 0.5 for name in ("a", "b", "rest")}
    for name, plane in planes.items():
        save(tmp_path / f"{name}.png", plane)
    (tmp_path / "image_ids.txt").write_text("x.jpg")
    (tmp_path / "localization.txt").write_text("x.jpg,a.png,rest.png\nx.jpg,b.png,")
    read = [cv2.imread(str(tmp_path / f"{name}.png"), cv2.IMREAD_GRAYSCALE) for name in planes]
    a, b, rest = (cv2.resize(plane, (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5 for plane in read)
    truth = read_truth(tmp_path).find("x")
    for sized in (truth, truth.with_size(500, 334), truth.with_size(1024, 683)):
        mask, ignore = sized.masks_on_grid(224)
        assert np.array_equal(mask, a | b)
        assert np.array_equal(ignore, rest & ~(a | b))


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_goes_to_the_grid(kind: str, tmp_path: Path) -> None:
    made, writer = drawn(), WRITERS[kind]
    writer.write(tmp_path, [made])
    seen = writer.seen(made)
    mask, ignore = read_truth(tmp_path / writer.file).find(made.key).with_size(*made.size).masks_on_grid(60)
    expected = [np.repeat(np.repeat(plane, 3, 0), 2, 1) for plane in (seen.objects > 0, seen.ignore)]
    assert (mask is None) == (not writer.masks)
    assert mask is None or np.array_equal(mask, expected[0])
    assert ignore.dtype == bool
    assert np.array_equal(ignore, expected[1] if writer.ignore else np.zeros((60, 60), bool))
