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
from support import crash_after, jpeg, samples, write_tar

from pipeline.demo.world import World
from pipeline.label import EXPORTERS, Tuning, label, labels_of, make, read_labels, read_policy
from pipeline.label.make import _label_tar
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.errors import UsageError
from schemas.labels import LABELS
from schemas.policy import Clean, Cut, Policy
from schemas.run import RunSpec

POLICY = Policy(name="legrad-otsu", methods=("legrad",), cut=Cut(kind="otsu"), clean=Clean(min_area=0.01))


@pytest.fixture(scope="module")
def labels(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels")
    label(atlas.objects.url, POLICY, EXPORTERS, str(out))
    return out


def png_masks(labels: Path, tar: str) -> dict[str, np.ndarray]:
    with tarfile.open(labels / "png" / f"{tar}.tar") as archive:
        return {
            name.removesuffix(".mask.png"): np.array(Image.open(io.BytesIO(archive.extractfile(name).read())))
            for name in archive.getnames()
            if name.endswith(".png")
        }


def test_every_rle_decodes_to_the_mask_in_the_png(labels: Path, atlas: Atlas) -> None:
    coco = COCO(labels / "coco" / "instances.json")
    seen = 0
    for tar in atlas.commits:
        for key, mask in png_masks(labels, tar).items():
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
def test_tars_zip_with_the_input_tars(labels: Path, world: World, atlas: Atlas) -> None:
    for tar in atlas.commits:
        pair = [
            webdataset.WebDataset(str(folder / f"{tar}.tar"), shardshuffle=False, empty_check=False)
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
    for tar in atlas.commits:
        table = pq.read_table(labels / "labels" / f"{tar}.parquet")
        assert table.schema == LABELS
        masks = png_masks(labels, tar)
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
    assert about["run"] == atlas.run.spec_hash


def test_a_key_that_is_unsafe_or_not_its_own_is_in_the_table_only(checkpoint, tmp_path: Path) -> None:
    members = [*samples(2), ("../../evil.jpg", jpeg()), ("../../evil.cls", b"1"), *samples(1)]
    shard = str(write_tar(tmp_path / "a.tar", members))
    out = str(tmp_path / "atlas")
    plan(RunSpec(shards=(shard,), model=checkpoint, methods=("legrad",)), out)
    run(out, INLINE)
    made = label(out, POLICY, EXPORTERS, str(tmp_path / "labels"))
    assert {made.counts[status] for status in ("unsafe_key", "duplicate_key")} == {1}
    assert read_labels(str(tmp_path / "labels"))["status"].to_pylist()[2:] == ["unsafe_key", "duplicate_key"]
    with tarfile.open(tmp_path / "labels" / "png" / "a.tar") as archive:
        assert archive.getnames() == ["s0000.mask.png", "s0000.json", "s0001.mask.png", "s0001.json"]


def test_labelling_again_gives_the_same_bytes(labels: Path, atlas: Atlas, tmp_path: Path) -> None:
    label(atlas.objects.url, POLICY, EXPORTERS, str(tmp_path))
    for path in labels.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(labels)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must be a mapping of name, methods, cut"),
        ("- a", "must be a mapping of name, methods, cut"),
        ("name: 2001-99-99", "is not YAML"),
        ("a: " + "[" * 3000, "is not YAML"),
        ("a: !!int x", "is not YAML"),
        ("a: [", "is not YAML"),
        ("{name: a, methods: [b]}", "cut: Field required"),
        ("{name: a, methods: [], cut: {kind: otsu}}", "methods: Tuple should have at least 1 item"),
        ("{name: a, methods: [b], cut: {kind: otsu, at: 1}}", "cut: otsu finds its own threshold"),
        ("{name: a, methods: [b], cut: {kind: fixed}}", "fixed needs 'at' between 0 and 1"),
        ("{name: a, methods: [b], cut: {kind: percentile, at: 101}}", "percentile needs 'at' between 1 and 100"),
        ("{name: a, methods: [b], cut: {kind: percentile, at: 0.8}}", "percentile needs 'at' between 1 and 100"),
        ("{name: a, methods: [b], cut: {kind: fixed, value: 1}}", "cut.value: there is no such field; there are kind"),
        (
            "{name: a, methods: [b], cut: {kind: otsu}, refine: {kind: pamr, rounds: 3}}",
            "refine.pamr.rounds: there is no such field; there are kind, iterations",
        ),
        ("{name: a, method: b, cut: {kind: otsu}}", "method: there is no such field; there are name, methods"),
        ("{name: a, methods: b, cut: {kind: otsu}}", r"methods: is a list, as in \[a, b\]"),
        ("{name: a, methods: [b], cut: otsu}", "cut: has fields of its own, as in {kind: …}"),
        ("{name: a, methods: [b], cut: {kind: otsu}, refine: pamr}", "refine: has fields of its own"),
        ("{name: a/b, methods: [b], cut: {kind: otsu}}", "name: String should match pattern"),
        ("{name: a, methods: [b], cut: {kind: otsu}, smooth: 3}", "smooth: there is no such field; there are name"),
    ],
)
def test_a_mistake_in_a_policy_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        read_policy(path)


def test_labels_of_another_policy_are_not_written_over(labels: Path, atlas: Atlas) -> None:
    other = Policy.model_validate(POLICY.model_dump() | {"normalise": "clip"})
    with pytest.raises(UsageError, match=r"something else \(policy.normalise is 'minmax', not 'clip'\); name another"):
        label(atlas.objects.url, other, EXPORTERS, str(labels))


@pytest.mark.parametrize(
    ("change", "formats", "says"),
    [
        (
            {"methods": ["gradcam"]},
            ["png"],
            "policy legrad-otsu: .* has no maps of 'gradcam'; it has attention, legrad",
        ),
        ({}, ["png", "bmp"], "there is no label format 'bmp'; there are png, coco"),
        ({"cut": {"kind": "calibrated"}}, ["png"], "its cut is calibrated; say on what truth, with --tune"),
    ],
)
def test_a_mistake_writes_nothing(atlas: Atlas, tmp_path: Path, change: dict, formats: list[str], says: str) -> None:
    policy = Policy.model_validate(POLICY.model_dump() | change)
    with pytest.raises(UsageError, match=says):
        label(atlas.objects.url, policy, formats, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_policy_that_is_not_calibrated_is_not_tuned(atlas: Atlas, world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its cut is not calibrated, so there is nothing to tune"):
        label(atlas.objects.url, POLICY, ["png"], str(tmp_path / "out"), Tuning(str(world.truth)))
    assert not (tmp_path / "out").exists()


def test_what_is_done_is_not_done_again_and_what_changed_is(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, done = tmp_path / "out", []

    def counting(*arguments):
        done.append(arguments[-1])
        return _label_tar(*arguments)

    monkeypatch.setattr(make, "_label_tar", counting)
    monkeypatch.setattr(make, "spread", lambda function, items, *rest, **options: map(function, items))
    tars = [shard.tar for shard in atlas.run.shards]
    label(atlas.objects.url, POLICY, ["png"], str(out))
    assert done == tars
    label(atlas.objects.url, POLICY, ["png"], str(out))
    assert done == tars
    label(atlas.objects.url, POLICY, ["png", "coco"], str(out))  # another format
    assert done == 2 * tars
    commit = out / "commits" / f"{tars[1]}.json"
    content = json.loads(commit.read_text())
    commit.write_text(json.dumps(content | {"parent": "sha256:0"}))  # the maps of that tar were made again
    label(atlas.objects.url, POLICY, ["png", "coco"], str(out))
    assert done == 2 * tars + tars[1:2]
    commit.write_text("{")  # torn
    label(atlas.objects.url, POLICY, ["png", "coco"], str(out))
    assert done == 2 * tars + 2 * tars[1:2]
    assert json.loads(commit.read_text()) == content


def test_stopped_after_any_operation_the_same_command_ends_with_the_same_bytes(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "spread", lambda function, items, *rest, **options: map(function, items))
    whole = tmp_path / "whole"
    label(atlas.objects.url, POLICY, ["png", "coco"], str(whole))
    expected = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    for count in range(1, 40):
        out = tmp_path / f"out-{count}"
        with crash_after(count, monkeypatch) as crash:
            label(atlas.objects.url, POLICY, ["png", "coco"], str(out))
        (out / "lease.json").unlink(missing_ok=True)
        label(atlas.objects.url, POLICY, ["png", "coco"], str(out))
        found = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert found == expected, count
        if not crash.happened:
            break
    assert count > 10
    assert not crash.happened


def test_a_key_in_two_tars_is_refused_by_formats_that_name_files_by_key(checkpoint, tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", samples(2))
    out = str(tmp_path / "atlas")
    plan(RunSpec(shards=(str(tmp_path / "[ab].tar"),), model=checkpoint, methods=("legrad",)), out)
    run(out, INLINE)
    named = [name for name, exporter in EXPORTERS.items() if exporter.by_key]
    with pytest.raises(UsageError, match=r"s0000: is a key in a and in b, and a format that names files by key"):
        label(out, POLICY, named[:1], str(tmp_path / "labels"))
    assert not (tmp_path / "labels").exists()
    label(out, POLICY, ["png", "coco"], str(tmp_path / "labels"))


CALIBRATED = Policy(name="calibrated", methods=("legrad",), cut=Cut(kind="calibrated"))


def split(world: World, tmp_path: Path, keep: int) -> Path:
    """The truth of the first scenes only."""
    content = json.loads((world.truth / "instances.json").read_text())
    content["images"] = content["images"][:keep]
    there = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in there]
    (tmp_path / "split.json").write_text(json.dumps(content))
    return tmp_path / "split.json"


def test_a_calibrated_threshold_is_the_best_on_the_split_and_nothing_else_is_looked_at(
    atlas: Atlas, world: World, tmp_path: Path
) -> None:
    truth = split(world, tmp_path, 8)
    made = label(atlas.objects.url, CALIBRATED, ["png"], str(tmp_path / "out"), Tuning(str(truth)))
    known = read_truth(world.truth)
    means = {}
    for at in (each / 50 for each in range(1, 50)):
        overlaps = []
        for each in labels_of(atlas, "demo-validation-00", CALIBRATED.at(at)):
            if each.sample["ordinal"] < 8:
                real = known.of(each.sample["key"]).mask
                overlaps.append((each.mask & real).sum() / (each.mask | real).sum())
        means[at] = np.mean(overlaps)
    best = max(means, key=means.get)
    assert made.policy.cut == Cut(kind="fixed", at=best)
    assert f"largest mean IoU, {means[best]:.4f}, of 8 pictures in split.json" in made.calibration
    table = read_labels(str(tmp_path / "out"))
    assert set(table["threshold"].to_pylist()) == {best}
    about = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert about["hash"] == CALIBRATED.at(best).digest()
    assert about["policy"]["cut"]["kind"] == "calibrated"


def test_a_scale_moves_the_threshold_that_was_found_and_several_methods_have_one(
    atlas: Atlas, world: World, tmp_path: Path
) -> None:
    truth = Tuning(str(split(world, tmp_path, 8)))
    several = CALIBRATED.model_copy(update={"methods": ("legrad", "attention")})
    plain = label(atlas.objects.url, several, ["png"], str(tmp_path / "plain"), truth)
    strict = several.model_copy(
        update={"cut": Cut(kind="calibrated", scale=1.5), "background": Cut(kind="calibrated", scale=0.5)}
    )
    scaled = label(atlas.objects.url, strict, ["png"], str(tmp_path / "scaled"), truth)
    assert scaled.policy.cut == Cut(kind="fixed", at=plain.policy.cut.at, scale=1.5)
    assert scaled.policy.background == Cut(kind="fixed", at=plain.policy.cut.at, scale=0.5)
    assert scaled.ignored > plain.ignored == 0


def test_a_split_of_boxes_calibrates_by_boxes(atlas: Atlas, world: World, tmp_path: Path) -> None:
    content = json.loads(split(world, tmp_path, 8).read_text())
    for each in content["annotations"]:
        del each["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    made = label(atlas.objects.url, CALIBRATED, ["png"], str(tmp_path / "out"), Tuning(str(tmp_path / "boxes.json")))
    assert 0 < made.policy.cut.at < 1


def test_a_split_of_other_pictures_is_a_users_mistake(atlas: Atlas, world: World, tmp_path: Path) -> None:
    content = json.loads((world.truth / "instances.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"other_{image['file_name']}"
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"other\.json: has no object in any picture of"):
        label(atlas.objects.url, CALIBRATED, ["png"], str(tmp_path / "out"), Tuning(str(tmp_path / "other.json")))
    assert not (tmp_path / "out").exists()


def test_every_row_says_what_it_was_made_from(labels: Path, atlas: Atlas) -> None:
    table = read_labels(str(labels))
    assert table.schema == LABELS
    assert set(table["policy"].to_pylist()) == {POLICY.digest()}
    assert len(set(table["parent"].to_pylist())) == len(atlas.commits)
    images = dict(zip(*(atlas.samples()[name].to_pylist() for name in ("row", "image_sha256")), strict=True))
    assert {row["row"]: row["image_sha256"] for row in table.to_pylist()} == images


def test_on_ray_the_bytes_are_the_same(ray_cluster: None, labels: Path, atlas: Atlas, tmp_path: Path) -> None:
    label(atlas.objects.url, POLICY, EXPORTERS, str(tmp_path), address="local")
    for path in labels.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(labels)).read_bytes() == path.read_bytes(), path


def test_an_atlas_or_scores_are_not_written_over(atlas: Atlas, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(atlas.objects.url).rglob("*")}
    with pytest.raises(UsageError, match="holds an atlas; name another --out"):
        label(atlas.objects.url, POLICY, ["png"], atlas.objects.url)
    assert before == {path: path.stat().st_mtime_ns for path in Path(atlas.objects.url).rglob("*")}
    (tmp_path / "commits").mkdir()
    (tmp_path / "commits" / "a.json").write_text("{}")
    with pytest.raises(UsageError, match=r"holds something else, whose commits/a\.json would be written over"):
        label(atlas.objects.url, POLICY, ["png"], str(tmp_path))


def test_other_names_of_classes_are_other_labels(atlas: Atlas, tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(10)]
    label(atlas.objects.url, POLICY, ["coco"], str(tmp_path), classes=names)
    assert b'"class 3"' in (tmp_path / "coco" / "instances.json").read_bytes()
    with pytest.raises(UsageError, match=r"something else \(classes is"):
        label(atlas.objects.url, POLICY, ["coco"], str(tmp_path), classes=names[::-1])
    with pytest.raises(UsageError, match="has 10 classes, not the 2 that are named"):
        label(atlas.objects.url, POLICY, ["coco"], str(tmp_path / "b"), classes=["a", "b"])


@pytest.fixture
def small(spec: RunSpec, tmp_path: Path) -> Path:
    """An atlas of three tars that a test may change."""
    out = tmp_path / "atlas"
    plan(spec, str(out))
    run(str(out), INLINE)
    return out


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_tar_that_was_done_again_leaves_nothing_of_what_it_was(
    small: Path, spec: RunSpec, shards: str, tmp_path: Path
) -> None:
    """Also of formats that are not asked for this time, and of pictures that have no maps any more."""
    out = tmp_path / "labels"
    label(str(small), POLICY, ["png", "voc"], str(out))
    tar = tmp_path / "shards" / "part-1.tar"
    first = samples(7, 5)
    write_tar(tar, [*first[:3], ("s0006.jpg", b"broken"), *first[4:]])
    (small / "commits" / "part-1.json").unlink()
    run(str(small), INLINE)
    label(str(small), POLICY, ["voc"], str(out))
    label(str(small), POLICY, ["png", "voc"], str(tmp_path / "fresh"))
    mine, fresh = everything(out), everything(tmp_path / "fresh")
    assert "voc/SegmentationClass/s0006.png" not in mine
    for unlike in ("summary.json", *(name for name in fresh if name.startswith("commits/"))):
        del mine[unlike], fresh[unlike]
    assert mine == fresh


def test_a_tar_that_is_finished_no_more_is_forgotten(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    label(str(small), POLICY, ["png", "coco"], str(out))
    (small / "commits" / "part-1.json").unlink()
    made = label(str(small), POLICY, ["png", "coco"], str(out))
    assert sum(made.counts.values()) == len(read_labels(str(out))) == 9
    assert not list(out.rglob("*part-1*"))


def test_an_object_that_is_gone_is_made_again(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    label(str(small), POLICY, ["png", "coco"], str(out))
    before = everything(out)
    (out / "png" / "part-0.tar").unlink()
    (out / "coco" / "tars" / "part-2.json").unlink()
    label(str(small), POLICY, ["png", "coco"], str(out))
    assert everything(out) == before


def test_what_was_made_of_all_tars_does_not_outlive_one_of_them(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "labels"
    label(str(small), POLICY, ["coco"], str(out))
    (out / "coco" / "tars" / "part-2.json").unlink()

    def tripping(*arguments: object, **options: object) -> None:
        raise RuntimeError("tripped")

    monkeypatch.setattr(make, "spread", tripping)
    with pytest.raises(RuntimeError, match="tripped"):
        label(str(small), POLICY, ["coco"], str(out))
    assert not (out / "summary.json").exists()
    assert not (out / "coco" / "instances.json").exists()


def test_a_calibrated_threshold_stands_when_more_tars_are_finished(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name, _ in samples(16) if name.endswith(".jpg")]
    images = [
        {"id": number, "file_name": name, "width": 40 + number % 7, "height": 30 + number % 5}
        for number, name in enumerate(names)
    ]
    boxes = [{"id": number + 1, "image_id": number, "category_id": 1, "bbox": [5, 5, 20, 15]} for number in range(16)]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    tuning, out = Tuning(str(tmp_path / "truth.json")), str(tmp_path / "labels")
    (small / "commits" / "part-2.json").rename(tmp_path / "part-2.json")
    first = label(str(small), CALIBRATED, ["png"], out, tuning)
    (tmp_path / "part-2.json").rename(small / "commits" / "part-2.json")
    second = label(str(small), CALIBRATED, ["png"], out, tuning)
    assert second.policy == first.policy
    assert "12 pictures" in second.calibration
    assert sum(second.counts.values()) == 16


def test_a_map_that_says_nothing_is_no_surely_empty_mask(atlas: Atlas, tmp_path: Path) -> None:
    policy = Policy(name="u", methods=("uniform",), cut=Cut(kind="otsu"), background=Cut(kind="fixed", at=0.1))
    assert label(atlas.objects.url, policy, ["png"], str(tmp_path / "u")).counts == {"no_signal": 48}
    both = policy.model_copy(update={"methods": ("legrad", "uniform")})
    alone = policy.model_copy(update={"methods": ("legrad",)})
    pairs = [labels_of(atlas, "demo-validation-00", each) for each in (both, alone)]
    assert all(a.mask_rle == b.mask_rle for a, b in zip(*pairs, strict=True))
