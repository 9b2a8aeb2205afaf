"""What is known of a picture, from every source; and what is wrong with it is said by name."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from support import samples, write_tar

from pipeline.label import iter_labels
from pipeline.read import DecodedSample, DecoderPool, PreprocessConfig, count_samples, expand_shards, iter_batches
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.train.mask_sources import MaskTarget, PseudoMaskSource, open_mask_source, open_truth_masks
from pipeline.train.prepare_training import prepare_training
from schemas.errors import UsageError
from schemas.policy import LabelFilter, Pamr, Policy, Threshold
from schemas.run import ModelSpec, RunSpec
from schemas.shard_record import ShardRecord
from schemas.training import MaskSpec, PatchMaskSettings, TrainSpec

FRAME = PreprocessConfig(48, 32, "bicubic", "squash", 1.0, "center")


@pytest.fixture
def sample(tmp_path: Path) -> DecodedSample:
    """s0001: 41 × 31 pixels."""
    shard = write_tar(tmp_path / "one.tar", samples(2))
    (record,) = count_samples(expand_shards((str(shard),)))
    (batch,) = iter_batches(record, 2, FRAME, 2, None, DecoderPool(0))
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


def test_masks_of_coco_with_crowds_ignored(sample: DecodedSample, tmp_path: Path) -> None:
    crowd = np.zeros_like(blob())
    crowd[:, 25:] = True
    file = coco(tmp_path, {"segmentation": coded(blob())}, {"segmentation": coded(crowd), "iscrowd": 1})
    known = open_truth_masks(file).find("one", sample)
    assert (known.mask == blob()).all()
    assert (known.ignore == (crowd & ~blob())).all()
    assert not known.boxed


def test_a_crowd_alone_says_nothing(sample: DecodedSample, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all annotations have iscrowd 1"):
        open_truth_masks(coco(tmp_path, {"segmentation": coded(blob()), "iscrowd": 1}))


def test_boxes_of_coco(sample: DecodedSample, tmp_path: Path) -> None:
    known = open_truth_masks(coco(tmp_path, {"bbox": [5, 10, 25, 10]})).find("one", sample)
    assert known.boxed
    assert (known.mask == blob()).all()


def test_boxes_of_files_that_say_no_sizes_are_cut_to_the_picture(sample: DecodedSample, tmp_path: Path) -> None:
    (tmp_path / "boxes.txt").write_text("image_id,x0,y0,x1,y1\nn01/s0001.jpeg,5,10,99,19\n")
    source = open_truth_masks(str(tmp_path / "boxes.txt"))
    known = source.find("one", sample)
    assert known.boxed
    assert known.mask.shape == known.ignore.shape == (31, 41)
    assert known.mask[10:20, 5:].all()
    assert known.mask.sum() == 10 * 36
    assert known.to_planes(sample, FRAME).shape == (2, 32, 48)


def test_a_training_says_what_is_unlikely_about_its_truth(tmp_path: Path, checkpoint: ModelSpec) -> None:
    box = {"bbox": [5, 10, 25, 10]}
    said: list[str] = []
    shard, held_out = (str(write_tar(tmp_path / f"{first}.tar", samples(2, first))) for first in (0, 1))
    for annotations in ([box, box], [box, box | {"category_id": 2}]):
        truth = coco(tmp_path, *annotations)
        spec = TrainSpec(
            shards=(shard,),
            held_out=(held_out,),
            model=checkpoint,
            masks=MaskSpec(truth=truth),
            settings=PatchMaskSettings(),
            out=str(tmp_path / "pm.safetensors"),
            steps=1,
        )
        prepare_training(spec, said.append)
    assert [line.partition(" in ")[0] for line in said] == ["1 image has objects of several classes"]


def test_pseudo_masks_are_not_taken_for_truth(tmp_path: Path) -> None:
    Image.new("1", (4, 4)).save(tmp_path / "s0001.mask.png")
    with pytest.raises(UsageError, match="holds pseudo-masks of vitatlas label; train on them by --atlas"):
        open_truth_masks(str(tmp_path))


def test_a_picture_without_annotation_is_unknown(sample: DecodedSample, tmp_path: Path) -> None:
    source = open_truth_masks(coco(tmp_path, {"bbox": [1, 1, 9, 9]}))
    assert source.find("one", replace(sample, key="s0009")) is None
    assert (source.count, "s0001" in source, "s0009" in source) == (1, True, False)
    with pytest.raises(UsageError, match=r"some.json: has no annotation of any image"):
        open_truth_masks(coco(tmp_path))


@pytest.mark.parametrize("kind", ["indexed", "one bit", "ImageNet-S"])
def test_masks_of_png(sample: DecodedSample, tmp_path: Path, kind: str) -> None:
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
    source = open_mask_source(MaskSpec(truth=str(tmp_path / "png")))
    known = source.find("one", sample)
    assert (known.mask == blob()).all()
    assert (known.ignore == ignore).all()
    assert (source.count, "s0001" in source, "s0002" in source) == (1, True, False)


def test_the_frame_sees_the_mask_where_the_picture_is(sample: DecodedSample) -> None:
    whole = MaskTarget(np.ones((31, 41), bool), np.zeros((31, 41), bool)).to_planes(sample, FRAME)
    assert whole.shape == (2, 32, 48)
    assert (whole[0] == 255).all()
    assert not whole[1].any()
    half = np.zeros((31, 41), bool)
    half[:, :20] = True
    planes = MaskTarget(half, ~half).to_planes(sample, FRAME)
    assert np.abs(planes.sum(0).astype(int) - 255).max() <= 1
    assert planes[0].mean() == pytest.approx(255 * 20 / 41, abs=2)


def test_a_mask_of_another_size_is_named(sample: DecodedSample, tmp_path: Path) -> None:
    source = open_truth_masks(coco(tmp_path, {"segmentation": coded(blob(20, 40))}, size=(40, 20)))
    with pytest.raises(UsageError, match="s0001: its mask is 40×20 pixels, the image 41×31"):
        source.find("one", sample).to_planes(sample, FRAME)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([[0, 255]], np.uint8), "has the value 255, which is white in one kind of mask"),
        (np.array([[0, 700]], np.uint16), "is a gray PNG of 16 bits"),
        (b"junk", "cannot be read as a PNG"),
    ],
)
def test_a_png_that_cannot_be_meant_is_named(sample: DecodedSample, tmp_path: Path, values: object, says: str) -> None:
    file = tmp_path / "png" / "s0001.png"
    file.parent.mkdir()
    if isinstance(values, bytes):
        file.write_bytes(values)
    else:
        Image.fromarray(values).save(file)
    with pytest.raises(UsageError, match=f"s0001.png: {says}"):
        open_truth_masks(str(file.parent)).find("one", sample)


def test_a_mask_is_found_by_its_folder_and_by_its_name_where_that_is_the_only_one(
    sample: DecodedSample, tmp_path: Path
) -> None:
    for name, size in {"a/s0001": 41, "b/s0001": 40, "b/s0002": 39}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (size, 31)).save(tmp_path / f"{name}.png")
    source = open_truth_masks(str(tmp_path))
    for key, width in {"a/s0001": 41, "./b/s0001": 40, "s0002": 39, "b/s0002": 39}.items():
        assert key in source
        assert source.find("one", replace(sample, key=key)).mask.shape == (31, width)
    assert source.find("one", replace(sample, key="c/s0001")) is None
    with pytest.raises(UsageError, match="a/s0001 and b/s0001 are both the truth of s0001"):
        source.find("one", sample)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, "there are no masks to train on; give --masks"),
        ({"truth": "a", "atlas": "b"}, "give one of the two"),
        ({"truth": "a", "policy": "b"}, "give one of the two"),
        ({"atlas": "b"}, "b: there is no policy that makes masks of its maps; give --policy FILE"),
        ({"truth": "nowhere.json"}, "nowhere.json: No such file"),
        ({"truth": "."}, "holds neither instances.json nor .* PNG masks"),
    ],
)
def test_a_source_that_is_none_is_refused(
    spec: dict, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says):
        open_mask_source(MaskSpec(**spec))


OTSU = Policy(name="p", methods=("legrad",), threshold=Threshold(kind="otsu"))


def read_all(shard: ShardRecord, frame: PreprocessConfig = FRAME) -> tuple[DecodedSample, ...]:
    (batch,) = iter_batches(shard, shard.samples, frame, shard.samples, None, DecoderPool(0))
    return batch.samples


def test_pseudo_masks_are_those_of_the_atlas(atlas: Atlas) -> None:
    source, shard = PseudoMaskSource(atlas, OTSU), atlas.run.shards[1]
    for sample, label in zip(read_all(shard), iter_labels(atlas, shard.name, OTSU), strict=True):
        known = source.find(shard.name, sample)
        assert (known.mask == label.mask).all()
        assert not known.ignore.any()
    assert source.count is None


def test_a_policy_whose_threshold_is_still_to_be_found_is_refused(atlas: Atlas) -> None:
    with pytest.raises(UsageError, match="policy p: its threshold is not calibrated yet; give the policy"):
        PseudoMaskSource(atlas, OTSU.model_copy(update={"threshold": Threshold(kind="calibrated")}))


def test_nothing_is_known_from_a_mask_of_another_class_or_an_empty_one(atlas: Atlas) -> None:
    predicted = PseudoMaskSource(atlas, OTSU.model_copy(update={"target": "predicted"}))
    nothing = PseudoMaskSource(atlas, OTSU.model_copy(update={"threshold": Threshold(kind="fixed", value=1.0)}))
    constant = PseudoMaskSource(atlas, Policy(name="p", methods=("uniform",), threshold=Threshold(kind="otsu")))
    shard = atlas.run.shards[0]
    for sample, row in zip(read_all(shard), atlas.shard(shard.name).samples.to_pylist(), strict=True):
        assert predicted.find(shard.name, sample) is not None or row["prediction"] != row["label"]
        assert predicted.find(shard.name, replace(sample, label=(row["prediction"] + 1) % 10)) is None
        assert nothing.find(shard.name, sample) is None
        assert constant.find(shard.name, sample) is None


def test_nothing_is_known_of_labels_that_are_left_out(atlas: Atlas) -> None:
    source = PseudoMaskSource(atlas, OTSU.model_copy(update={"filter": LabelFilter(area=(0.1, 0.3))}))
    known = {True: 0, False: 0}
    for shard in atlas.run.shards:
        for sample, label in zip(read_all(shard), iter_labels(atlas, shard.name, OTSU), strict=True):
            kept = 0.1 <= label.area <= 0.3
            assert (source.find(shard.name, sample) is not None) == kept
            known[kept] += 1
    assert all(known.values())


def test_nothing_is_known_of_pixels_between_two_cuts(atlas: Atlas) -> None:
    policy = OTSU.model_copy(update={"background_threshold": Threshold(kind="otsu", scale=0.7)})
    source, shard = PseudoMaskSource(atlas, policy), atlas.run.shards[0]
    for sample, label in zip(read_all(shard), iter_labels(atlas, shard.name, policy), strict=True):
        known = source.find(shard.name, sample)
        assert (known.ignore == label.ignore).all()
        assert known.ignore.any()
        assert not (known.mask & known.ignore).any()


def test_a_policy_that_refines_reads_the_pictures_again(atlas: Atlas) -> None:
    refined = OTSU.model_copy(update={"refine": Pamr(iterations=2, dilations=(1, 4))})
    source, shard = PseudoMaskSource(atlas, refined), atlas.run.shards[0]
    pairs = zip(iter_labels(atlas, shard.name, OTSU), iter_labels(atlas, shard.name, refined), strict=True)
    differ = 0
    for sample, (coarse, sharp) in zip(read_all(shard), pairs, strict=True):
        known = source.find(shard.name, sample)
        assert (known.mask == sharp.mask).all()
        differ += (known.mask != coarse.mask).any()
    assert differ


def test_nothing_is_known_of_what_the_network_did_not_see(shards: str, checkpoint: ModelSpec, tmp_path: Path) -> None:
    out = str(tmp_path / "atlas")
    plan(RunSpec(shards=(shards,), model=checkpoint, methods=("legrad",), geometry="crop"), out)
    atlas = run(out, INLINE)
    source, shard = PseudoMaskSource(Atlas.open(out), OTSU), atlas.run.shards[0]
    frame = PreprocessConfig.for_model(atlas.run.model, "crop")
    found = 0
    for sample in read_all(shard, frame):
        if (known := source.find(shard.name, sample)) is not None:
            found += 1
            assert 0 < known.ignore.mean() < 1
            assert not (known.mask & known.ignore).any()
            assert (
                known.to_planes(sample, frame)[1].mean() < 25
            )  # the crop was seen, but for halves of pixels at its rim
            whole = replace(frame, geometry="squash")
            squashed = next(each for each in read_all(shard, whole) if each.key == sample.key)
            assert known.to_planes(squashed, whole)[1].any()
    assert found


def test_tars_that_the_atlas_does_not_have_are_named(atlas: Atlas) -> None:
    source, shard = PseudoMaskSource(atlas, OTSU), atlas.run.shards[0]
    with pytest.raises(UsageError, match="has no maps of train-77"):
        source.check_shards([replace(shard, name="train-77")])
    with pytest.raises(UsageError, match=f"has 24 samples, not 25, of {shard.name}"):
        source.check_shards([replace(shard, samples=25)])
    with pytest.raises(UsageError, match="has no maps of 'gradcam'"):
        PseudoMaskSource(atlas, OTSU.model_copy(update={"methods": ("gradcam",)}))
