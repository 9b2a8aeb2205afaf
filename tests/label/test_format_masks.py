"""Masks as files, read back by their consumers: png, voc, imagenet_s, parquet."""

import io
import json
import tarfile
from pathlib import Path

import cv2
import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torchvision
import webdataset
from PIL import Image
from pycocotools import mask as rle
from some_labels import CONTEXT, LABELS, MASKED, box, label_of, shape, written

from pipeline.label.formats import LABEL_FORMATS
from pipeline.label.formats.parquet import MASKS
from pipeline.label.formats.png_encoding import GRAY_PALETTE, VOC_PALETTE, encode_indexed_png, label_array
from pipeline.label.mask import Label


def expected(label: Label) -> np.ndarray:
    """uint8 [height, width]: 0, 1, 255."""
    return np.where(label.ignore, 255, label.mask).astype(np.uint8)


def pixels(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


# webdataset leaves the closing of its files to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_masks_and_what_is_said_of_them(tmp_path: Path) -> None:
    objects = written(LABEL_FORMATS["png"])
    for shard, part in LABELS.items():
        path = tmp_path / f"{shard}.tar"
        path.write_bytes(objects[f"png/{shard}.tar"])
        found = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
        told = [each for each in part if each.status not in ("unsafe_key", "duplicate_key")]
        assert [each["__key__"] for each in found] == [each.sample["key"] for each in told]
        for sample, label in zip(found, told, strict=True):
            about = json.loads(sample["json"])
            assert about == {
                "status": label.status,
                "label": label.class_id,
                "width": label.sample["width"],
                "height": label.sample["height"],
                "orientation": label.sample["orientation"],
                "exif": "apply",
                "key_separator": "first-dot",
                "image_key": [],
                "threshold": label.threshold,
                "background": label.background,
                "area": label.area,
                "ignored": label.ignored,
                "boxes": None if label.boxes is None else [list(each) for each in label.boxes],
                "agreement": label.agreement,
                "probability": label.probability,
                "policy": CONTEXT.policy_hash,
            }
            if label.mask_rle is None:
                assert "mask.png" not in sample
            else:
                assert np.array_equal(pixels(sample["mask.png"]), expected(label))


def test_a_mask_in_a_tar_is_indexed_with_one_bit_or_with_eight_where_it_ignores() -> None:
    depths = {}
    with tarfile.open(fileobj=io.BytesIO(written(LABEL_FORMATS["png"])["png/first.tar"])) as archive:
        for name in archive.getnames():
            if name.endswith(".png"):
                data = archive.extractfile(name).read()
                depths[name] = data[24], data[25]
    assert depths == {"ring.mask.png": (8, 3), "folder/two.mask.png": (1, 3), "nothing.mask.png": (8, 3)}


@pytest.mark.parametrize("palette", [GRAY_PALETTE, VOC_PALETTE])
def test_every_reader_finds_the_colours_of_the_palette(palette: bytes) -> None:
    coded = label_array(MASKED[0])
    data = encode_indexed_png(coded, palette)
    assert np.array_equal(pixels(data), coded)
    colours = np.frombuffer(palette, np.uint8).reshape(256, 3)[coded]
    assert np.array_equal(np.array(Image.open(io.BytesIO(data)).convert("RGB")), colours)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], colours)


def test_the_voc_palette_is_that_of_voc() -> None:
    colours = np.frombuffer(VOC_PALETTE, np.uint8).reshape(256, 3).tolist()
    assert colours[:4] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colours[20:22] == [[0, 64, 128], [128, 64, 128]]
    assert colours[255] == [224, 224, 192]
    assert len(set(map(tuple, colours))) == 256


def test_voc_lists_every_mask_once_in_the_list_that_readers_take_by_default() -> None:
    objects = written(LABEL_FORMATS["voc"])
    lists = {Path(name).name: data for name, data in objects.items() if name.startswith("voc/ImageSets/Segmentation/")}
    assert list(lists) == ["train.txt"]
    keys = lists["train.txt"].decode().splitlines()
    assert keys == [each.sample["key"].removeprefix("./") for each in MASKED]
    pngs = [name for name in objects if name.endswith(".png")]
    assert sorted(pngs) == sorted(f"voc/SegmentationClass/{key}.png" for key in keys)
    for key, label in zip(keys, MASKED, strict=True):
        data = objects[f"voc/SegmentationClass/{key}.png"]
        assert Image.open(io.BytesIO(data)).mode == "P"
        assert np.array_equal(pixels(data), expected(label))


def test_voc_names_its_values_by_their_colors() -> None:
    """datumaro and CVAT read ``labelmap.txt``; without it they take 1 for the first class of VOC, an airplane."""
    objects = written(LABEL_FORMATS["voc"])
    lines = objects["voc/labelmap.txt"].decode().splitlines()
    assert lines[0].startswith("#")
    names = {}
    for line in lines[1:]:
        name, color, parts, actions = line.split(":")
        assert parts == actions == ""
        names[tuple(map(int, color.split(",")))] = name
    value_by_name = {"background": 0, "object": 1, "ignore": 255}
    for label in MASKED:
        data = objects[f"voc/SegmentationClass/{label.sample['key'].removeprefix('./')}.png"]
        rgb = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
        found = [value_by_name[names[tuple(color)]] for color in rgb.reshape(-1, 3).tolist()]
        assert np.array_equal(np.reshape(found, label.mask.shape), expected(label))


def test_torchvision_pairs_voc_masks_with_pictures(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name, data in written(LABEL_FORMATS["voc"]).items():
        path = root / name.removeprefix("voc/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for each in MASKED:
        path = root / "JPEGImages" / f"{each.sample['key']}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (each.sample["width"], each.sample["height"])).save(path)
    found = torchvision.datasets.VOCSegmentation(str(tmp_path))
    assert len(found) == len(MASKED)
    for (image, mask), label in zip(found, MASKED, strict=True):
        assert image.size == mask.size
        assert np.array_equal(np.array(mask), expected(label))


def test_imagenet_s_codes_class_other_and_ignore_in_red_and_green() -> None:
    objects = written(LABEL_FORMATS["imagenet_s"])
    assert len(objects) == len(MASKED)
    for label in MASKED:
        rgb = pixels(objects[f"imagenet_s/{label.sample['key'].removeprefix('./')}.png"]).astype(int)
        ids = rgb[..., 0] + 256 * rgb[..., 1]
        assert np.array_equal(ids, np.select([label.mask, label.ignore], [label.class_id + 1, 1000], 0))


def test_datasets_reads_run_lengths_that_pycocotools_decodes(tmp_path: Path) -> None:
    objects = written(LABEL_FORMATS["parquet"])
    every = [each for part in LABELS.values() for each in part]
    for name, data in objects.items():
        (tmp_path / Path(name).name).write_bytes(data)
    schema = pq.read_schema(tmp_path / "first.parquet")
    assert schema.equals(MASKS)
    assert schema.metadata[b"policy"].decode() == CONTEXT.policy_hash
    files = [str(tmp_path / f"{shard}.parquet") for shard in LABELS]
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == len(every)
    for row, label in zip(found, every, strict=True):
        assert (row["row"], row["key"], row["status"]) == (label.sample["row"], label.sample["key"], label.status)
        assert (row["label"], row["width"]) == (label.class_id, label.sample["width"])
        if label.mask_rle is None:
            assert row["mask"] is row["ignore"] is row["bbox"] is row["area"] is None
            continue
        assert np.array_equal(rle.decode(row["mask"]), label.mask)
        assert np.array_equal(rle.decode(row["ignore"]), label.ignore)
        assert row["bbox"] == box(label.mask)
        assert row["area"] == label.mask.sum()


def test_a_label_without_a_mask_has_no_values() -> None:
    with pytest.raises(ValueError, match="a: has no mask"):
        label_array(Label({"key": "a"}, "undecodable"))
    assert not label_array(label_of(0, "a", shape())).any()
