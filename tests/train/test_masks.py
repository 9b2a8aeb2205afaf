"""What is known of a picture, from every source; and what is wrong with it is said by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from support import samples, write_tar

from pipeline.read import Frame, Sample, batches, count, decoders, find
from pipeline.store import Atlas
from pipeline.train.masks import Known, PngMasks, PseudoMasks, masks, truth_masks
from schemas.errors import UsageError
from schemas.policy import Cut, Policy
from schemas.training import MaskSpec

FRAME = Frame(48, 32, "bicubic", "squash", 1.0, "center")


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """s0001: 41 × 31 pixels."""
    shard = write_tar(tmp_path / "one.tar", samples(2))
    (record,) = count(find((str(shard),)))
    (batch,) = batches(record, 2, FRAME, 2, None, decoders(0))
    return batch.samples[1]


def blob(height: int = 31, width: int = 41) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[10:20, 5:30] = True
    return mask


def coco(folder: Path, *annotations: dict, size: tuple[int, int] = (41, 31)) -> str:
    width, height = size
    content = {
        "images": [{"id": 7, "file_name": "s0001.jpg", "width": width, "height": height}],
        "annotations": [{"id": n, "image_id": 7, "category_id": 1, **each} for n, each in enumerate(annotations)],
        "categories": [],
    }
    file = folder / "some.json"
    file.write_text(json.dumps(content))
    return str(file)


def coded(mask: np.ndarray) -> dict:
    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


def test_masks_of_coco_with_crowds_ignored(sample: Sample, tmp_path: Path) -> None:
    crowd = np.zeros_like(blob())
    crowd[:, 25:] = True
    file = coco(tmp_path, {"segmentation": coded(blob())}, {"segmentation": coded(crowd), "iscrowd": 1})
    known = truth_masks(file).of("one", sample)
    assert (known.object == blob()).all()
    assert (known.ignore == (crowd & ~blob())).all()
    assert not known.boxed


def test_boxes_of_coco(sample: Sample, tmp_path: Path) -> None:
    known = truth_masks(coco(tmp_path, {"bbox": [5, 10, 25, 10]})).of("one", sample)
    assert known.boxed
    assert (known.object == blob()).all()


def test_a_picture_without_annotation_is_unknown(sample: Sample, tmp_path: Path) -> None:
    source = truth_masks(coco(tmp_path))
    assert source.of("one", sample) is None
    assert not source.keys


@pytest.mark.parametrize("kind", ["indexed", "one bit", "ImageNet-S"])
def test_masks_of_png(sample: Sample, tmp_path: Path, kind: str) -> None:
    ignore = np.zeros_like(blob())
    ignore[:5] = True
    if kind == "indexed":
        values = np.where(ignore, 255, 3 * blob()).astype(np.uint8)
        image = Image.fromarray(values).convert("P")
    elif kind == "one bit":
        image, ignore = Image.fromarray(blob()), np.zeros_like(ignore)
    else:
        code = np.where(ignore, 1000, 500 * blob().astype(int))
        image = Image.fromarray(np.stack([code % 256, code // 256, 0 * code], 2).astype(np.uint8))
    (tmp_path / "png" / "n01").mkdir(parents=True)
    image.save(tmp_path / "png" / "n01" / "s0001.png")
    source = masks(MaskSpec(truth=str(tmp_path / "png")))
    known = source.of("one", sample)
    assert (known.object == blob()).all()
    assert (known.ignore == ignore).all()
    assert list(source.keys) == ["s0001"]


def test_the_frame_sees_the_mask_where_the_picture_is(sample: Sample) -> None:
    whole = Known(np.ones((31, 41), bool), np.zeros((31, 41), bool)).planes(sample, FRAME)
    assert whole.shape == (2, 32, 48)
    assert (whole[0] == 255).all()
    assert not whole[1].any()
    half = np.zeros((31, 41), bool)
    half[:, :20] = True
    planes = Known(half, ~half).planes(sample, FRAME)
    assert np.abs(planes.sum(0).astype(int) - 255).max() <= 1
    assert planes[0].mean() == pytest.approx(255 * 20 / 41, abs=2)


def test_a_mask_of_another_size_is_named(sample: Sample, tmp_path: Path) -> None:
    source = truth_masks(coco(tmp_path, {"segmentation": coded(blob(20, 40))}, size=(40, 20)))
    with pytest.raises(UsageError, match="s0001: its mask is 40×20 pixels, the picture 41×31"):
        source.of("one", sample).planes(sample, FRAME)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([[0, 255]], np.uint8), "has 0 and 255 alone, and 255 means ignored; write the object as 1"),
        (np.array([[0, 700]], np.uint16), "is a PNG of mode I"),
        (b"junk", "cannot be read as a PNG"),
    ],
)
def test_a_png_that_cannot_be_meant_is_named(sample: Sample, tmp_path: Path, values: object, says: str) -> None:
    file = tmp_path / "png" / "s0001.png"
    file.parent.mkdir()
    if isinstance(values, bytes):
        file.write_bytes(values)
    else:
        Image.fromarray(values).save(file)
    with pytest.raises(UsageError, match=f"s0001.png: {says}"):
        PngMasks(str(file.parent)).of("one", sample)


def test_two_masks_of_one_key_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / folder / "s1.png")
    with pytest.raises(UsageError, match="are both masks of s1"):
        PngMasks(str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, "say where the object is: --masks"),
        ({"truth": "a", "atlas": "b"}, "say where the object is: --masks"),
        ({"atlas": "b"}, "b: say how its maps become masks, with --policy FILE"),
        ({"truth": "nowhere.json"}, "nowhere.json: No such file"),
        ({"truth": "."}, "holds neither instances.json nor PNG masks"),
    ],
)
def test_a_source_that_is_none_is_refused(
    spec: dict, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says):
        masks(MaskSpec(**spec))


def test_pseudo_masks_are_those_of_the_atlas(atlas: Atlas) -> None:
    policy = Policy(name="p", method="legrad", cut=Cut(kind="otsu"))
    source = PseudoMasks(atlas.objects.url, policy)
    shard = atlas.run.shards[1]
    from pipeline.label import labels_of

    labels = list(labels_of(atlas, shard.tar, policy))
    (batch,) = batches(shard, shard.samples, FRAME, shard.samples, None, decoders(0))
    for sample, label in zip(batch.samples, labels, strict=True):
        assert (source.of(shard.tar, sample).object == label.mask).all()
    assert not source.local


def test_tars_that_the_atlas_does_not_have_are_named(atlas: Atlas) -> None:
    source = PseudoMasks(atlas.objects.url, Policy(name="p", method="legrad", cut=Cut(kind="otsu")))
    with pytest.raises(UsageError, match="has no maps of train-77"):
        source.check(["train-77"])
    with pytest.raises(UsageError, match="has no maps of 'gradcam'"):
        PseudoMasks(atlas.objects.url, Policy(name="p", method="gradcam", cut=Cut(kind="otsu")))
