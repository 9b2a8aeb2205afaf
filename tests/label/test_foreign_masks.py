"""Masks that were made elsewhere become labels as our own are: the same masks, formats and records, nothing lost."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from support import crash_after, jpeg, write_tar

from pipeline.audit.verify_products import verify_folder
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.image.orientation import orient_mask
from pipeline.label import LABEL_FORMATS, MaskDataset, import_masks, iter_labels, label, read_labels
from pipeline.run import INLINE, derive, run
from pipeline.run.plan import plan
from pipeline.score import score_masks
from pipeline.store import Atlas
from pipeline.truth import TruthSet, read_masks, read_truth
from schemas.errors import UsageError
from schemas.labels import LABELS
from schemas.policy import Policy, Postprocess, Threshold
from schemas.run import RunSpec

POLICY = Policy(
    name="banded",
    methods=("legrad",),
    threshold=Threshold(kind="otsu", scale=1.1),
    background_threshold=Threshold(kind="otsu", scale=0.7),
    postprocess=Postprocess(min_area=0.01),
)


@pytest.fixture(scope="module")
def own(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of the atlas by a policy, in formats that can be read back."""
    out = tmp_path_factory.mktemp("own")
    label(atlas, POLICY, ["png", "voc", "coco", "imagenet_s"], str(out))
    return out


def write_png(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(bool)).save(path)


@pytest.mark.parametrize("source", ["voc/SegmentationClass", "coco/instances.json", "imagenet_s"])
def test_our_own_masks_come_back_as_they_were(source: str, own: Path, atlas: Atlas, tmp_path: Path) -> None:
    summary = import_masks(atlas, read_masks(own / source), ["parquet", "png"], str(tmp_path), tool="ourselves")
    mine, theirs = read_labels(str(own)), read_labels(str(tmp_path))
    assert theirs.schema.equals(mine.schema)
    assert theirs.schema.names == LABELS.names
    for name in ("row", "key", "status", "label", "width", "height", "area", "ignored", "components", "boxes"):
        assert theirs[name].to_pylist() == mine[name].to_pylist(), name
    assert theirs["image_sha256"].to_pylist() == mine["image_sha256"].to_pylist()
    assert summary.counts["ok"] == sum(status == "ok" for status in mine["status"].to_pylist())
    assert (summary.unused, summary.source.tool) == (0, "ourselves")
    assert theirs["policy"].unique().to_pylist() == [summary.source.digest()]
    for shard in atlas.shard_names:
        expected = {each.sample["key"]: each for each in iter_labels(atlas, shard, POLICY)}
        for sample in MaskDataset(atlas.run.shards[atlas.shard_names.index(shard)].url, tmp_path / "png"):
            assert np.array_equal(sample.mask == 1, expected[sample.key].mask)
            assert np.array_equal(sample.mask == 255, expected[sample.key].ignore)
            assert sample.label == expected[sample.key].class_id


def test_scores_of_masks_that_came_back_are_those_of_the_masks(
    own: Path, atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    import_masks(atlas, read_masks(own / "voc" / "SegmentationClass"), ["png"], str(tmp_path))
    truth = read_truth(world.truth)
    assert score_masks(str(tmp_path), truth) == score_masks(str(own), truth)


def test_every_format_takes_masks_of_others(own: Path, atlas: Atlas, tmp_path: Path) -> None:
    import_masks(atlas, read_masks(own / "coco" / "instances.json"), LABEL_FORMATS, str(tmp_path))
    for name in LABEL_FORMATS:
        assert any((tmp_path / name).rglob("*.*")), name
    for name in ("voc/SegmentationClass", "imagenet_s", "voc/ImageSets"):
        for file in (own / name).rglob("*.*"):
            assert (tmp_path / file.relative_to(own)).read_bytes() == file.read_bytes()
    content, expected = (json.loads((out / "coco" / "instances.json").read_text()) for out in (tmp_path, own))
    assert content["annotations"] == expected["annotations"]
    first = next(each for each in iter_labels(atlas, atlas.shard_names[0], POLICY) if each.status == "ok")
    scores = np.load(tmp_path / "wsol" / "score_maps" / f"{first.sample['member']}.npy")
    resized = np.asarray(Image.fromarray(first.mask).resize((224, 224), Image.Resampling.NEAREST))
    assert ((scores > 0.5) == resized).mean() > 0.99
    assert (scores.min(), scores.max()) == (0, 1)
    assert verify_folder(str(tmp_path)).faults == []


def sources(atlas: Atlas, folder: Path) -> tuple[dict[str, np.ndarray], Path]:
    """A random mask of the first three samples of each shard, and one of no sample."""
    rng, masks = np.random.default_rng(0), {}
    for shard in atlas.shard_names:
        for sample in atlas.samples_of(shard, ["key", "width", "height"]).to_pylist()[:3]:
            masks[sample["key"]] = rng.random((sample["height"], sample["width"])) < 0.5
            write_png(folder / f"{sample['key']}.png", masks[sample["key"]])
    write_png(folder / "of\u202eno one.png", np.ones((3, 3), bool))
    return masks, folder


def test_nothing_is_lost(atlas: Atlas, tmp_path: Path) -> None:
    masks, folder = sources(atlas, tmp_path / "masks")
    empty = next(iter(masks))
    write_png(folder / f"{empty}.png", np.zeros_like(masks[empty]))
    lines: list[str] = []
    summary = import_masks(atlas, read_masks(folder), ["png"], str(tmp_path / "out"), log=lines.append)
    assert summary.counts == {"ok": 5, "empty": 1, "missing_mask": 42}
    rows = read_labels(str(tmp_path / "out")).to_pylist()
    assert {row["key"] for row in rows if row["status"] in ("ok", "empty")} == set(masks)
    assert all(row["label"] is not None and row["area"] is None for row in rows if row["status"] == "missing_mask")
    assert "42 samples have no mask in masks, such as scene_000003" in lines
    assert any(
        line.startswith("1 masks of masks are not used, such as that of of\u202eno one: no sample") for line in lines
    )
    unused = list(csv.reader(io.StringIO((tmp_path / "out" / "unused.csv").read_text())))
    assert unused == [["key", "reason"], ["of\\u202eno one", "no sample has this key"]]
    assert summary.unused == 1
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (content["unused"], content["source"]["masks"]) == (1, read_masks(folder).digest)


def test_the_class_is_that_of_the_target(atlas: Atlas, tmp_path: Path) -> None:
    _, folder = sources(atlas, tmp_path / "masks")
    samples = atlas.samples(["label", "prediction"]).to_pylist()
    assert any(sample["label"] != sample["prediction"] for sample in samples)
    for target, column in (("label", "label"), ("predicted", "prediction")):
        import_masks(atlas, read_masks(folder), ["parquet"], str(tmp_path / target), target)
        assert read_labels(str(tmp_path / target))["label"].to_pylist() == [sample[column] for sample in samples]


def test_what_cannot_be_masks_of_the_atlas_is_refused_before_anything_is_written(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    key = atlas.samples(["key"])["key"][0].as_py()
    width, height = (atlas.samples([name])[name][0].as_py() for name in ("width", "height"))
    write_png(tmp_path / "small" / f"{key}.png", np.ones((height // 2, width // 2), bool))
    write_png(tmp_path / "other" / "someone.png", np.ones((height, width), bool))
    (tmp_path / "boxes.csv").write_text(f"image_id,x0,y0,x1,y1\n{key},1,1,9,9\n")
    gray = np.full((height, width), 255, np.uint8)
    (tmp_path / "gray").mkdir()
    Image.fromarray(gray).save(tmp_path / "gray" / f"{key}.png")
    voc = tmp_path / "SegmentationClass" / f"{key}.png"
    write_png(voc, np.ones((height, width), bool))
    faults = {
        "small": rf"small: the mask of {key} is {width // 2}×{height // 2} pixels, its image {width}×{height}; resize",
        "other": r"other: has no mask of a sample with maps; keys there and in the atlas are 'someone' and 'scene_",
        "boxes.csv": rf"boxes.csv: has boxes of {key} and no mask",
        "gray": "has the value 255, .* --mask-values indexed|gray",
        "SegmentationClass": "has masks of 20 classes; write one mask for each image",
    }
    for name, fault in faults.items():
        with pytest.raises(UsageError, match=fault):
            import_masks(atlas, read_masks(tmp_path / name), ["png"], str(tmp_path / "out"))
        assert not (tmp_path / "out").exists(), name


def test_a_mask_of_two_samples_is_refused(checkpoint, tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", [(f"{name}/x.jpg", jpeg()), (f"{name}/x.cls", b"1")])
    plan(RunSpec(shards=(str(tmp_path / "[ab].tar"),), model=checkpoint, methods=("random",)), str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    write_png(tmp_path / "masks" / "x.png", np.ones((30, 40), bool))
    with pytest.raises(UsageError, match="x would be the truth of b/x in b and a/x in a"):
        import_masks(atlas, read_masks(tmp_path / "masks"), ["png"], str(tmp_path / "out"))


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_masks_of_stored_images_are_turned_to_the_maps(exif: str, checkpoint, tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    members = [("x.jpg", jpeg(0, (40, 30), exif=tag)), ("x.cls", b"1"), ("bad.jpg", b"no image"), ("bad.cls", b"2")]
    write_tar(tmp_path / "a.tar", members)
    spec = RunSpec(shards=(str(tmp_path / "a.tar"),), model=checkpoint, methods=("random",), exif=exif)
    plan(spec, str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    stored = np.random.default_rng(0).random((30, 40)) < 0.5
    write_png(tmp_path / "masks" / "x.png", stored)
    write_png(tmp_path / "masks" / "bad.png", stored)
    lines: list[str] = []
    summary = import_masks(atlas, read_masks(tmp_path / "masks"), ["png"], str(tmp_path / "out"), log=lines.append)
    assert summary.counts == {"ok": 1, "undecodable": 1}
    assert lines == [
        "1 masks of masks are not used, such as that of bad: its sample has the status undecodable; see unused.csv"
    ]
    (sample,) = MaskDataset(tmp_path / "a.tar", tmp_path / "out" / "png")
    expected = orient_mask(stored, 6) if exif == "apply" else stored
    assert np.array_equal(sample.mask == 1, expected)
    assert sample.image.shape == (3, *expected.shape)


def test_stopped_after_any_operation_the_same_command_ends_with_the_same_bytes(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derive, "parallel_map", lambda function, items, *rest, **options: map(function, items))
    _, folder = sources(atlas, tmp_path / "masks")
    masks = read_masks(folder)

    def make(out: Path) -> None:
        import_masks(atlas, masks, ["coco"], str(out))

    def everything(out: Path) -> dict[Path, bytes]:
        return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    make(tmp_path / "whole")
    expected = everything(tmp_path / "whole")
    for count in range(1, 40, 3):
        out = tmp_path / f"out-{count}"
        with crash_after(count, monkeypatch) as crash:
            make(out)
        (out / "lease.json").unlink(missing_ok=True)
        make(out)
        assert everything(out) == expected, count
        if not crash.happened:
            break
    assert count > 10
    assert not crash.happened


def test_masks_of_another_source_are_other_labels(own: Path, atlas: Atlas, tmp_path: Path) -> None:
    _, folder = sources(atlas, tmp_path / "masks")
    out = str(tmp_path / "out")
    import_masks(atlas, read_masks(folder), ["png"], out)
    before = (tmp_path / "out" / "product.json").read_bytes()
    for masks, tool in ((read_masks(folder), "another"), (read_masks(own / "imagenet_s"), None)):
        with pytest.raises(UsageError, match="holds something else"):
            import_masks(atlas, masks, ["png"], out, tool=tool)
    with pytest.raises(UsageError, match="holds something else"):
        label(atlas, POLICY, ["png"], out)
    assert (tmp_path / "out" / "product.json").read_bytes() == before


def test_a_mask_that_cannot_be_decoded_names_itself(atlas: Atlas, tmp_path: Path) -> None:
    masks, folder = sources(atlas, tmp_path / "masks")
    last = folder / f"{list(masks)[-1]}.png"
    data = last.read_bytes()
    last.write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match=rf"{last.name}: cannot be read as a PNG"):
        import_masks(atlas, read_masks(folder), ["png"], str(tmp_path / "out"))


def results_of(masks: dict[str, np.ndarray], ids: dict[str, object]) -> list[dict[str, object]]:
    results = []
    for key, mask in masks.items():
        coded = rle.encode(np.asfortranarray(mask, np.uint8))
        segmentation = {"size": coded["size"], "counts": coded["counts"].decode()}
        results.append({"image_id": ids[key], "category_id": 1, "segmentation": segmentation, "score": 0.9})
    return results


def test_an_image_that_another_program_lists_without_annotations_has_no_mask(
    atlas: Atlas, own: Path, tmp_path: Path
) -> None:
    """In our files it is an empty mask; in theirs nobody may have looked at it."""
    content = json.loads((own / "coco" / "instances.json").read_text())
    bare = content["annotations"][0]["image_id"]
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] != bare]
    found = {}
    for name, info in (("ours", content["info"]), ("theirs", {"description": "boxes"})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content | {"info": info}))
        summary = import_masks(atlas, read_masks(tmp_path / f"{name}.json"), ["coco"], str(tmp_path / name))
        found[name] = summary.counts.get("missing_mask", 0), summary.unused, summary.counts.get("empty", 0)
    assert found["ours"][:2] == (0, 0)
    listed = {each["image_id"] for each in content["annotations"]}
    empty = len(content["images"]) - len(listed)
    assert found == {"ours": (0, 0, empty), "theirs": (empty, empty, 0)}


def test_the_command_takes_results_on_our_coco_export(
    own: Path, atlas: Atlas, tmp_path: Path, vitatlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks, _ = sources(atlas, tmp_path / "masks")
    instances = json.loads((own / "coco" / "instances.json").read_text())
    ids = {image["file_name"].removesuffix(".jpg"): image["id"] for image in instances["images"]}
    results = results_of(masks, ids)
    low = {**results[0], "segmentation": results[1]["segmentation"], "score": 0.1}
    (tmp_path / "detr.json").write_text(json.dumps([low, *results]))
    out, url = tmp_path / "out", atlas.objects.url
    command = ["label", url, "--from", tmp_path / "detr.json", "--out", out, "--format", "png", "--tool", "DETR"]
    code, _, error = vitatlas(*command)
    assert (code, "is a number, which says nothing of its key; name the COCO file" in error) == (2, True)
    command += ["--images", own / "coco" / "instances.json"]
    code, _, error = vitatlas(*command)
    assert (code, "have different scores; say from which one on they are a mask by --min-score X" in error) == (2, True)
    code, output, error = vitatlas(*command, "--min-score", "0.5")
    assert code == 0, error
    assert "labels from detr.json, made by DETR" in output
    assert "note     42 samples have no mask in detr.json, such as" in error
    assert f"written to {out}: labels/, png/, about.json, unused.csv, summary.json" in output
    found = {sample.key: sample.mask.numpy() == 1 for sample in MaskDataset(
        [shard.url for shard in atlas.run.shards], out / "png")}  # fmt: skip
    assert found.keys() == masks.keys()
    assert all(np.array_equal(found[key], mask) for key, mask in masks.items())
    code, output, _ = vitatlas(*command, "--min-score", "0.5", "--json")
    document = json.loads(output)
    assert (code, document["source"]["tool"], document["counts"]) == (0, "DETR", {"missing_mask": 42, "ok": 6})


def test_the_command_wants_a_policy_or_masks(atlas: Atlas, tmp_path: Path, vitatlas) -> None:
    url = atlas.objects.url
    (tmp_path / "p.yaml").write_text("{name: p, methods: [legrad], threshold: {kind: otsu}}")
    _, folder = sources(atlas, tmp_path / "masks")
    wrong = {
        (): "name either how maps become masks, --policy FILE, or masks made elsewhere, --from FILE|DIR",
        ("--policy", tmp_path / "p.yaml", "--from", folder): "name either how maps become masks",
        ("--policy", tmp_path / "p.yaml", "--tool", "SAM"): "--tool: belongs to --from; leave it out",
        ("--from", folder, "--tune", folder): "--tune: belongs to --policy; leave it out",
        ("--from", folder, "--min-score", "0.5"): "masks: is no file of COCO results; leave out --min-score",
        ("--from", tmp_path / "none"): "none: No such file or folder",
        ("--from", folder, "--target", "top:3"): "top:3",
    }
    for arguments, message in wrong.items():
        code, _, error = vitatlas("label", url, *arguments)
        assert (code, message in error) == (2, True), error


def test_truth_without_a_size_takes_that_of_the_image(atlas: Atlas, tmp_path: Path) -> None:
    """Polygons in results have none."""
    sample = atlas.samples_of(atlas.shard_names[0], ["key", "width", "height"]).to_pylist()[0]
    square = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]
    result = {"image_id": f"folder/{sample['key']}.JPEG", "category_id": 4, "segmentation": square}
    (tmp_path / "r.json").write_text(json.dumps([result]))
    masks: TruthSet = read_masks(tmp_path / "r.json")
    import_masks(atlas, masks, ["parquet"], str(tmp_path / "out"))
    row = read_labels(str(tmp_path / "out")).to_pylist()[0]
    assert (row["status"], row["boxes"], row["width"]) == ("ok", [[2, 3, 11, 8]], sample["width"])
