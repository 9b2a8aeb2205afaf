"""A policy with ``refine: sam``: its masks prompt, those of the segmenter are the labels; or it is refused at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from some_sams import write_sam
from support import jpeg, samples, write_tar

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.image.upsample import valid_region
from pipeline.label import MaskDataset, iter_labels, label, prompted_masks, read_labels, read_policy
from pipeline.label.formats.sam import make_prompts
from pipeline.read import PreprocessConfig, decode_image
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.store.images import read_original_images
from schemas.errors import CorruptShardError, UsageError
from schemas.policy import LabelFilter, Policy, Postprocess, Sam, Threshold
from schemas.run import RunSpec

COARSE = Policy(
    name="coarse",
    methods=("legrad",),
    threshold=Threshold(kind="otsu"),
    background_threshold=Threshold(kind="otsu", scale=0.6),
    postprocess=Postprocess(min_area=0.01),
)


@pytest.fixture
def checkpoint_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a SAM, beside transformers, in whose place ``fill_boxes`` answers."""
    folder = tmp_path / "sam"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "sam"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("pipeline.label.sam_checkpoint.find_spec", lambda name: name)
    monkeypatch.setattr("pipeline.label.label_atlas.compute_address", lambda policy, address: address)
    monkeypatch.setattr(prompted_masks, "make_segmenter", lambda spec: fill_boxes)
    return folder


def fill_boxes(pixels: np.ndarray, prompts: list[dict]) -> np.ndarray:
    """Dark pixels in the boxes of the prompts."""
    mask = np.zeros(pixels.shape[1:], bool)
    for prompt in prompts:
        x0, y0, x1, y1 = prompt["box"]
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask & (pixels.mean(0) < 128)


def refined(folder: Path, **changes: object) -> Policy:
    return COARSE.model_copy(update={"name": "sam", "refine": Sam(kind="sam", checkpoint=str(folder)), **changes})


def test_the_mask_prompts_and_that_of_the_segmenter_is_the_label(
    atlas: Atlas, checkpoint_folder: Path, tmp_path: Path
) -> None:
    shard = atlas.shard_names[0]
    coarse = list(iter_labels(atlas, shard, COARSE))
    found = list(iter_labels(atlas, shard, refined(checkpoint_folder)))
    images = dict(read_original_images(atlas.shard(shard), range(len(coarse))))
    assert len(found) == len(coarse) == len(images)
    for ordinal, (before, after) in enumerate(zip(coarse, found, strict=True)):
        mask = fill_boxes(images[ordinal], make_prompts(before))
        assert np.array_equal(after.mask, mask)
        assert not after.ignore.any()  # all of the image was seen, and the segmenter has decided the band
        assert before.ignore.any()
        assert after.area == mask.mean()
        assert (after.heatmap, after.class_id, after.threshold) == (None, before.class_id, before.threshold)
    assert any(not np.array_equal(before.mask, after.mask) for before, after in zip(coarse, found, strict=True))


def test_the_record_names_the_checkpoint(
    atlas: Atlas, world: SyntheticDataset, checkpoint_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    label(atlas, refined(checkpoint_folder), ["png", "wsol"], str(out))
    about = json.loads((out / "policy.json").read_text())
    assert about["policy"]["refine"]["sha256"].startswith("sha256:")
    assert read_labels(str(out))["policy"].unique().to_pylist() == [about["hash"]]
    masks = {sample.key: sample.mask.numpy() == 1 for sample in MaskDataset(world.shards, out / "png")}
    key, mask = next(iter(masks.items()))
    scores = np.load(out / "wsol" / "score_maps" / f"{key}.jpg.npy")
    assert abs((scores > 0.5).mean() - mask.mean()) < 0.02
    label(atlas, refined(checkpoint_folder), ["png"], str(out))  # done
    (checkpoint_folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UsageError, match="holds something else"):
        label(atlas, refined(checkpoint_folder), ["png"], str(out))


def test_the_area_that_is_filtered_is_that_of_the_segmenter(atlas: Atlas, checkpoint_folder: Path) -> None:
    shard = atlas.shard_names[0]
    areas = [each.area for each in iter_labels(atlas, shard, refined(checkpoint_folder))]
    least = sorted(areas)[len(areas) // 2]
    limited = refined(checkpoint_folder, filter=LabelFilter(area=(least, 1.0)))
    found = list(iter_labels(atlas, shard, limited))
    assert [each.status for each in found] == ["ok" if area >= least else "too_small" for area in areas]
    assert [each.area for each in found] == areas
    assert all((each.mask_rle is None) == (each.status == "too_small") for each in found)


def test_pixels_that_the_network_did_not_see_stay_ignored(checkpoint, checkpoint_folder: Path, tmp_path: Path) -> None:
    members = [("dark.jpg", b"junk"), ("dark.cls", b"1"), ("a.jpg", jpeg(3, (90, 40))), ("a.cls", b"2")]
    write_tar(tmp_path / "a.tar", members)
    spec = RunSpec(shards=(str(tmp_path / "a.tar"),), model=checkpoint, methods=("random",), geometry="crop")
    plan(spec, str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    broken, found = iter_labels(atlas, "a", refined(checkpoint_folder, methods=("random",)))
    assert (broken.status, broken.mask_rle) == ("undecodable", None)
    unseen = ~valid_region(found.sample, found.input_size)
    assert unseen.any()
    assert np.array_equal(found.ignore, unseen & ~found.mask)


def test_an_empty_mask_prompts_nothing(atlas: Atlas, checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompted_masks, "make_segmenter", None)
    nothing = refined(checkpoint_folder, threshold=Threshold(kind="fixed", value=1.0), background_threshold=None)
    assert {each.status for each in iter_labels(atlas, atlas.shard_names[0], nothing)} == {"empty"}
    some = nothing.model_copy(update={"filter": LabelFilter(area=(0.1, 1.0))})
    assert {each.status for each in iter_labels(atlas, atlas.shard_names[0], some)} == {"too_small"}


def test_original_images_are_those_of_the_atlas(finished: Path, tmp_path: Path) -> None:
    atlas = Atlas.open(str(finished))
    shard = atlas.shard("part-1")
    found = dict(read_original_images(shard, [1, 3]))
    assert list(found) == [1, 3]
    assert list(read_original_images(shard, [])) == []
    for ordinal, pixels in found.items():
        sample = shard.samples.slice(ordinal, 1).to_pylist()[0]
        config = PreprocessConfig(sample["width"], sample["height"], "nearest", "squash", 1.0, "center")
        number = 5 + ordinal
        assert np.array_equal(pixels, decode_image(jpeg(number, (40 + number % 7, 30 + number % 5)), config).pixels)
    write_tar(tmp_path / "shards" / "part-1.tar", samples(7, 50))
    with pytest.raises(CorruptShardError, match="the image of s0006 is not the one in the atlas"):
        list(read_original_images(shard, [1]))


def test_what_is_no_checkpoint_is_refused_before_anything_is_written(
    atlas: Atlas, checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(folder: Path, **changes: object) -> str:
        with pytest.raises(UsageError) as refused:
            label(atlas, refined(folder, **changes), ["png"], str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        return str(refused.value)

    mobile = tmp_path / "mobile"
    mobile.mkdir()
    (mobile / "mobile_sam.pt").write_bytes(b"")
    assert "is no folder of transformers with a config.json" in refusal(mobile)
    assert "MobileSAM has an image encoder that transformers has no class for" in refusal(mobile)
    pinned = Sam(kind="sam", checkpoint=str(checkpoint_folder), sha256=f"sha256:{'0' * 64}")
    assert "not the checkpoint of the policy, sha256:000" in refusal(checkpoint_folder, refine=pinned)
    (checkpoint_folder / "adapter_config.json").write_text("{}")
    assert "has an adapter; merge it into the model" in refusal(checkpoint_folder)
    (checkpoint_folder / "model.safetensors").rename(checkpoint_folder / "pytorch_model.bin")
    assert "has no weights as safetensors" in refusal(checkpoint_folder)
    (checkpoint_folder / "config.json").write_text('{"model_type": "edgetam"}')
    assert "is a model of the type 'edgetam'; refine: sam takes sam, sam2, sam2_video" in refusal(checkpoint_folder)
    monkeypatch.setattr("pipeline.label.sam_checkpoint.find_spec", lambda name: None)
    assert refusal(checkpoint_folder) == "refine: sam needs a missing package; pip install 'vit-atlas[sam]'"


def test_the_command_says_which_extra_is_missing(
    atlas: Atlas, tmp_path: Path, vitatlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.label.sam_checkpoint.find_spec", lambda name: None)
    policy = tmp_path / "p.yaml"
    steps = "refine: {kind: sam, checkpoint: sam-vit-base}, threshold: {kind: otsu}"
    policy.write_text(f"{{name: p, methods: [legrad], {steps}}}")
    code, _, error = vitatlas("label", atlas.objects.url, "--policy", policy, "--out", tmp_path / "out")
    assert (code, "refine: sam needs a missing package; pip install 'vit-atlas[sam]'" in error) == (2, True)
    assert read_policy(policy).refine == Sam(kind="sam", checkpoint="sam-vit-base")


def test_a_policy_with_a_real_sam_gives_the_same_labels_twice(atlas: Atlas, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra sam is not installed")
    from pipeline.label.sam_segmenter import SamSegmenter

    folder = write_sam(tmp_path / "sam")
    policy = refined(folder, background_threshold=None)
    for out in ("a", "b"):
        label(atlas, policy, ["png", "coco"], str(tmp_path / out))
    for file in (tmp_path / "a").rglob("*.*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    segment, shard = SamSegmenter(str(folder)), atlas.shard_names[0]
    coarse = {each.sample["key"]: each for each in iter_labels(atlas, shard, COARSE.model_copy(
        update={"background_threshold": None}))}  # fmt: skip
    images = dict(read_original_images(atlas.shard(shard), range(4)))
    url = atlas.run.shards[0].url
    masks = {sample.key: sample.mask.numpy() == 1 for sample in MaskDataset(url, tmp_path / "a" / "png")}
    for ordinal, (key, before) in enumerate(list(coarse.items())[:4]):
        expected = segment(images[ordinal], make_prompts(before))
        assert np.array_equal(masks[key], expected) if expected.any() else key not in masks
