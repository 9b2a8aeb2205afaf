"""Labels of an atlas as their consumers read them."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from support import jpeg, samples, write_tar

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import LABEL_FORMATS, iter_labels, label, read_labels, read_policy
from pipeline.run import INLINE, run
from pipeline.run.execution import ComputeOptions
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.errors import UsageError
from schemas.labels import LABELS
from schemas.policy import Policy, Postprocess, Threshold
from schemas.run import RunSpec

POLICY = Policy(
    name="legrad-otsu", methods=("legrad",), threshold=Threshold(kind="otsu"), postprocess=Postprocess(min_area=0.01)
)


@pytest.fixture(scope="module")
def labels(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels")
    label(atlas, POLICY, LABEL_FORMATS, str(out))
    return out


def png_masks(labels: Path, shard: str) -> dict[str, np.ndarray]:
    with tarfile.open(labels / "png" / f"{shard}.tar") as archive:
        return {
            name.removesuffix(".mask.png"): np.array(Image.open(io.BytesIO(archive.extractfile(name).read())))
            for name in archive.getnames()
            if name.endswith(".png")
        }


def test_every_rle_decodes_to_the_mask_in_the_png(labels: Path, atlas: Atlas) -> None:
    coco = COCO(labels / "coco" / "instances.json")
    seen = 0
    for shard in atlas.commits:
        for key, mask in png_masks(labels, shard).items():
            (image,) = (image for image in coco.imgs.values() if image["file_name"] == f"{key}.jpg")
            found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            decoded = coco.annToMask(found[0]) if found else np.zeros_like(mask)
            assert np.array_equal(decoded, mask)
            assert mask.shape == (image["height"], image["width"])
            seen += 1
            for each in found:
                assert each["area"] == mask.sum()
                assert each["bbox"] == list(rle.toBbox(each["segmentation"]))
                assert each["iscrowd"] == 0
    assert seen == 48


def test_a_png_is_indexed_with_one_bit_and_shows_black_and_white(labels: Path) -> None:
    with tarfile.open(labels / "png" / "demo-validation-00.tar") as archive:
        data = archive.extractfile("scene_000000.mask.png").read()
    image = Image.open(io.BytesIO(data))
    assert image.mode in ("P", "1")
    assert data[24] == 1  # bit depth in the header
    assert set(np.unique(np.array(image.convert("RGB")))) == {0, 255}


# webdataset leaves the closing of its files to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_tars_zip_with_the_input_tars(labels: Path, world: SyntheticDataset, atlas: Atlas) -> None:
    for shard in atlas.commits:
        pair = [
            webdataset.WebDataset(str(folder / f"{shard}.tar"), shardshuffle=False, empty_check=False)
            for folder in (world.folder / "shards", labels / "png")
        ]
        for picture, mask in zip(*pair, strict=True):
            assert picture["__key__"] == mask["__key__"]
            size = Image.open(io.BytesIO(picture["jpg"])).size
            assert Image.open(io.BytesIO(mask["mask.png"])).size == size
            about = json.loads(mask["json"])
            assert about["label"] == int(picture["cls"])
            assert about["policy"] == POLICY.digest()


def test_the_table_says_what_the_masks_are(labels: Path, atlas: Atlas) -> None:
    for shard in atlas.commits:
        table = pq.read_table(labels / "labels" / f"{shard}.parquet")
        assert table.schema == LABELS
        masks = png_masks(labels, shard)
        for row in table.to_pylist():
            mask = masks[row["key"]]
            assert row["area"] == pytest.approx(mask.mean())
            assert row["components"] == len(row["boxes"])
            assert 0 <= row["threshold"] <= 1
            assert 0 <= row["probability"] <= 1
            inside = np.zeros_like(mask)
            for x0, y0, x1, y1 in row["boxes"]:
                inside[y0 : y1 + 1, x0 : x1 + 1] = 1
            assert not (mask & ~inside).any()
    about = json.loads((labels / "policy.json").read_text())
    assert about["hash"] == POLICY.digest()
    assert about["run"] == atlas.run.run_hash


def test_a_key_that_is_unsafe_or_not_its_own_is_in_the_table_only(checkpoint, tmp_path: Path) -> None:
    members = [*samples(2), ("../../evil.jpg", jpeg()), ("../../evil.cls", b"1"), *samples(1)]
    shard = str(write_tar(tmp_path / "a.tar", members))
    out = str(tmp_path / "atlas")
    plan(RunSpec(shards=(shard,), model=checkpoint, methods=("legrad",)), out)
    run(out, INLINE)
    made = label(Atlas.open(out), POLICY, LABEL_FORMATS, str(tmp_path / "labels"))
    assert {made.counts[status] for status in ("unsafe_key", "duplicate_key")} == {1}
    assert read_labels(str(tmp_path / "labels"))["status"].to_pylist()[2:] == ["unsafe_key", "duplicate_key"]
    with tarfile.open(tmp_path / "labels" / "png" / "a.tar") as archive:
        assert archive.getnames() == ["s0000.mask.png", "s0000.json", "s0001.mask.png", "s0001.json"]


def test_labelling_again_gives_the_same_bytes(labels: Path, atlas: Atlas, tmp_path: Path) -> None:
    label(atlas, POLICY, LABEL_FORMATS, str(tmp_path))
    for path in labels.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(labels)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must be a mapping of name, methods, threshold"),
        ("- a", "must be a mapping of name, methods, threshold"),
        ("name: 2001-99-99", "is not YAML"),
        ("a: " + "[" * 3000, "is not YAML"),
        ("a: !!int x", "is not YAML"),
        ("a: [", "is not YAML"),
        (
            "name: a\nmethods: [b]\nthreshold: {kind: otsu}\nmethods: [c]",
            "line 4: is not YAML .'methods' is given twice",
        ),
        ("{name: a, methods: [b], threshold: {kind: otsu, kind: mean}}", "line 1: is not YAML .'kind' is given twice"),
        ("{name: a, methods: [b]}", "threshold: Field required"),
        ("{name: a, methods: [], threshold: {kind: otsu}}", "methods: Tuple should have at least 1 item"),
        ("{name: a, methods: [b], threshold: {kind: otsu, value: 1}}", "threshold: otsu computes its own threshold"),
        ("{name: a, methods: [b], threshold: {kind: fixed}}", "fixed needs 'value' between 0 and 1"),
        (
            "{name: a, methods: [b], threshold: {kind: percentile, value: 101}}",
            "percentile needs 'value' between 1 and 100",
        ),
        (
            "{name: a, methods: [b], threshold: {kind: percentile, value: 0.8}}",
            "percentile needs 'value' between 1 and 100",
        ),
        (
            "{name: a, methods: [b], threshold: {kind: fixed, level: 1}}",
            "threshold.level: there is no such field; the fields are kind",
        ),
        (
            "{name: a, methods: [b], threshold: {kind: otsu}, refine: {kind: pamr, rounds: 3}}",
            "refine.pamr.rounds: there is no such field; the fields are kind, iterations",
        ),
        (
            "{name: a, method: b, threshold: {kind: otsu}}",
            "method: there is no such field; the fields are name, methods",
        ),
        ("{name: a, methods: b, threshold: {kind: otsu}}", r"methods: must be a list, as in \[a, b\]"),
        ("{name: a, methods: [b], threshold: otsu}", "threshold: must be a mapping, as in {kind: …}"),
        ("{name: a, methods: [b], threshold: {kind: otsu}, refine: pamr}", "refine: must be a mapping"),
        ("{name: a/b, methods: [b], threshold: {kind: otsu}}", "name: String should match pattern"),
        (
            "{name: a, methods: [b], threshold: {kind: otsu}, smooth: 3}",
            "smooth: there is no such field; the fields are name",
        ),
    ],
)
def test_a_mistake_in_a_policy_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        read_policy(path)


def test_labels_of_another_policy_are_not_written_over(labels: Path, atlas: Atlas) -> None:
    other = Policy.model_validate(POLICY.model_dump() | {"normalize": "clip"})
    with pytest.raises(UsageError, match=r"something else \(policy.normalize is 'minmax', not 'clip'\); name another"):
        label(atlas, other, LABEL_FORMATS, str(labels))


@pytest.mark.parametrize(
    ("change", "formats", "says"),
    [
        (
            {"methods": ["gradcam"]},
            ["png"],
            "policy legrad-otsu: .* has no maps of 'gradcam'; it has attention, legrad",
        ),
        ({}, ["png", "bmp"], "there is no label format 'bmp'; there are png, coco"),
        ({"threshold": {"kind": "calibrated"}}, ["png"], "its threshold is calibrated; name the truth with --tune"),
    ],
)
def test_a_mistake_writes_nothing(atlas: Atlas, tmp_path: Path, change: dict, formats: list[str], says: str) -> None:
    policy = Policy.model_validate(POLICY.model_dump() | change)
    with pytest.raises(UsageError, match=says):
        label(atlas, policy, formats, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_every_row_says_what_it_was_made_from(labels: Path, atlas: Atlas) -> None:
    table = read_labels(str(labels))
    assert table.schema == LABELS
    assert set(table["policy"].to_pylist()) == {POLICY.digest()}
    assert len(set(table["parent"].to_pylist())) == len(atlas.commits)
    images = dict(zip(*(atlas.samples()[name].to_pylist() for name in ("row", "image_sha256")), strict=True))
    assert {row["row"]: row["image_sha256"] for row in table.to_pylist()} == images


@pytest.mark.soak
def test_on_ray_the_bytes_are_the_same(ray_cluster: None, labels: Path, atlas: Atlas, tmp_path: Path) -> None:
    label(atlas, POLICY, LABEL_FORMATS, str(tmp_path), options=ComputeOptions("local"))
    for path in labels.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(labels)).read_bytes() == path.read_bytes(), path


def test_a_map_that_says_nothing_is_no_surely_empty_mask(atlas: Atlas, tmp_path: Path) -> None:
    policy = Policy(
        name="u",
        methods=("uniform",),
        threshold=Threshold(kind="otsu"),
        background_threshold=Threshold(kind="fixed", value=0.1),
    )
    assert label(atlas, policy, ["png"], str(tmp_path / "u")).counts == {"no_signal": 48}
    both = policy.model_copy(update={"methods": ("legrad", "uniform")})
    alone = policy.model_copy(update={"methods": ("legrad",)})
    pairs = [iter_labels(atlas, "demo-validation-00", each) for each in (both, alone)]
    assert all(a.mask_rle == b.mask_rle for a, b in zip(*pairs, strict=True))
