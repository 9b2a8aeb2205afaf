"""Predictions of other programs have the scores that they have by the protocol, whatever form they come in."""

from pathlib import Path

import numpy as np
import pytest
from label.test_wsol_reference import write_metadata
from label.wsol_reference import Scores, evaluate
from score.builders import change, first, rows_of
from score.some_sources import pack_tar, runs_of, write_maps, write_masks, write_results

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import label
from pipeline.score import open_source, score
from pipeline.score.sources import split_source_name
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.errors import UsageError
from schemas.policy import Policy, Threshold
from schemas.scores import SCORES


@pytest.fixture(scope="module")
def masks(world: SyntheticDataset) -> dict[str, np.ndarray]:
    truths = read_truth(world.truth)
    return {key: truths.by_key[key].mask for key in truths}


def scores_of(path: Path, truth: str | Path, out: Path, **options) -> dict:
    """Return the row of a source of one method."""
    truths = read_truth(truth)
    source = open_source(
        str(path), truths, "other", **{k: options.pop(k) for k in ("are_image_sized",) if k in options}
    )
    return rows_of(score(source, truths, out=str(out), **options))["other"]


@pytest.fixture(scope="module")
def legrad(atlas: Atlas, world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Scores of the maps where they are, in the atlas."""
    out = str(tmp_path_factory.mktemp("legrad") / "out")
    return rows_of(score(atlas, read_truth(world.truth), methods=["legrad"], out=out))["legrad"]


@pytest.mark.parametrize("form", ["npy", "npz", "tar"])
def test_maps_of_an_atlas_have_the_same_scores_as_files(
    atlas: Atlas, world: SyntheticDataset, legrad: dict, tmp_path: Path, form: str
) -> None:
    """Any scale: these are 7 × map − 3. Other programs have no predictions of classes."""
    path = write_maps(atlas, "legrad", tmp_path / "maps", ".npz" if form == "npz" else ".npy")
    path = pack_tar(path, tmp_path / "maps.tar") if form == "tar" else path
    row = scores_of(path, world.truth, tmp_path / "out")
    of_labels = {"top1_loc", "top5_loc", "top1_cls", "top5_cls", *(n for n in SCORES if n.startswith("error_"))}
    for name in SCORES:
        if name in of_labels:
            assert row[name] is None
            continue
        assert row[name] == pytest.approx(legrad[name], abs=1e-6), name
        assert row["interval"][name] == pytest.approx(legrad["interval"][name], abs=1e-6), name
    for name in ("threshold", "v2_thresholds_oracle", "mask_threshold", "images", "masks", "tuning_images"):
        assert row[name] == legrad[name], name
    assert (row["source"], row["network"], row["target"], row["degenerate"]) == ("other", None, None, 0)


def test_exported_score_maps_have_the_scores_of_the_atlas_and_of_the_reference(
    atlas: Atlas, world: SyntheticDataset, legrad: dict, tmp_path: Path
) -> None:
    label(atlas, Policy(name="p", methods=("legrad",), threshold=Threshold(kind="otsu")), ["wsol"], str(tmp_path / "l"))
    folder = tmp_path / "l" / "wsol" / "score_maps"
    masks = write_metadata(world, tmp_path / "metadata")
    row = scores_of(folder, world.truth, tmp_path / "out")
    reference = evaluate(folder, tmp_path / "metadata", masks)
    assert reference == pytest.approx(Scores(row["maxboxacc"], row["maxboxacc_v2"], row["pxap"]), abs=1e-9)
    for name in ("pxap", "maxboxacc", "maxboxacc_v2", "iou30", "iou50", "iou70", "gt_known", "boxacc_v2", "gt_known_20",
                 "iou", "iou_oracle", "f_beta", "pointing", "energy"):  # fmt: skip
        assert row[name] == pytest.approx(legrad[name], abs=1e-6), name


@pytest.mark.parametrize("form", ["png", "results", "bool"])
def test_true_masks_are_perfect(world: SyntheticDataset, masks: dict, tmp_path: Path, form: str) -> None:
    if form == "png":
        path = write_masks(masks, tmp_path / "masks")
    elif form == "bool":
        path = tmp_path / "arrays"
        path.mkdir()
        for key, mask in masks.items():
            np.save(path / f"{key}.npy", mask)
    else:
        ids = {key: image_id for image_id, key in read_truth(world.truth).keys_by_id.items()}
        path = write_results(
            [{"image_id": ids[key], "category_id": 1, "segmentation": runs_of(mask)} for key, mask in masks.items()],
            tmp_path / "results.json",
        )
    row = scores_of(path, world.truth, tmp_path / "out")
    assert (row["pxap"], row["iou"], row["pointing"], row["iou_oracle"]) == pytest.approx((100, 100, 100, 100))
    assert row["images"] == 48


def test_true_boxes_are_hits_and_have_no_pixel_scores(world: SyntheticDataset, tmp_path: Path) -> None:
    truths = read_truth(world.truth)
    lines = [f"{key}.jpg,{','.join(map(str, truth.boxes[0]))}" for key, truth in truths.by_key.items()]
    (tmp_path / "boxes.csv").write_text("\n".join(["image_id,x0,y0,x1,y1", *lines]))
    row = scores_of(tmp_path / "boxes.csv", world.truth, tmp_path / "out")
    assert (row["maxboxacc"], row["maxboxacc_v2"], row["gt_known"]) == (100, 100, 100)
    assert (row["pxap"], row["iou"], row["pointing"], row["threshold"], row["gt_known_20"]) == (None,) * 5
    ids = {key: image_id for image_id, key in truths.keys_by_id.items()}
    results = []
    for key, truth in truths.by_key.items():
        x0, y0, x1, y1 = (int(side) for side in truth.boxes[0])
        good = {"image_id": ids[key], "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1], "score": 0.9}
        results += [{"image_id": ids[key], "bbox": [0, 0, 1, 1], "score": 0.1}, good]
    same = scores_of(write_results(results, tmp_path / "results.json"), world.truth, tmp_path / "out2")
    assert [same[name] for name in SCORES] == [row[name] for name in SCORES]


def test_a_pixel_has_the_score_of_the_best_mask(tmp_path: Path, world: SyntheticDataset) -> None:
    truths = read_truth(change(world, tmp_path, first(1)))
    (key,) = truths
    shape = truths.by_key[key].mask.shape
    left, all_ = np.zeros(shape, bool), np.ones(shape, bool)
    left[:, : shape[1] // 2] = True
    results = [
        {"image_id": f"{key}.jpg", "segmentation": runs_of(mask), "score": score}
        for mask, score in ((left, 0.75), (all_, 0.5))
    ]
    source = open_source(str(write_results(results, tmp_path / "r.json")), truths)
    ((_, read),) = source.predictions(source.shard_names[0], source.methods)
    (values,) = read().values()
    np.testing.assert_array_equal(values, np.where(left, 0.75, 0.5))


def test_maps_without_a_signal_are_counted_and_are_misses(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    folder = write_maps(atlas, "legrad", tmp_path / "maps")
    files = sorted(folder.iterdir())
    for file, values in zip(
        files, (np.full((9, 9), 2.0), np.full((300, 300), np.nan), np.zeros((9, 9), bool)), strict=False
    ):
        np.save(file, values)
    one_nan = np.random.default_rng(0).random((900, 900))
    one_nan[450, 451] = np.inf  # a pixel that no tap of the reduction to 224 × 224 needs to read
    np.save(files[3], one_nan)
    row = scores_of(folder, world.truth, tmp_path / "out")
    assert (row["degenerate"], row["images"]) == (4, 48)
    without = change(world, tmp_path, lambda c: _remove(c, {file.name.removesuffix(".npy") for file in files[:4]}))
    for file in files[:4]:
        file.unlink()
    rest = scores_of(folder, without, tmp_path / "rest")
    assert row["maxboxacc"] == pytest.approx(rest["maxboxacc"] * 44 / 48)


def _remove(content: dict, names: set[str]) -> None:
    ids = {image["id"] for image in content["images"] if image["file_name"] in names}
    content["images"] = [image for image in content["images"] if image["id"] not in ids]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in ids]


def test_images_that_only_one_side_has_are_refused_or_left_out(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    folder = write_maps(atlas, "legrad", tmp_path / "maps")
    (folder / "scene_000003.jpg.npy").rename(folder / "elsewhere.npy")
    with pytest.raises(UsageError, match=r"elsewhere: .*no annotation of this image"):
        scores_of(folder, world.truth, tmp_path / "out")
    (folder / "elsewhere.npy").unlink()
    with pytest.raises(UsageError, match=r"scene_000003: is in .*, but .* has no such image"):
        scores_of(folder, world.truth, tmp_path / "out")
    messages: list[str] = []
    row = scores_of(folder, world.truth, tmp_path / "out", subset=True, log=messages.append)
    assert (row["images"], len(messages)) == (47, 1)
    assert messages[0].startswith("1 of 48 images of ")


def test_what_is_counted_is_not_counted_again_until_a_file_changes(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.score import score_shard

    folder = write_maps(atlas, "legrad", tmp_path / "maps")
    seen: list[str] = []
    count = score_shard.count_prediction
    monkeypatch.setattr(score_shard, "count_prediction", lambda p, image: seen.append(image.key) or count(p, image))
    before = scores_of(folder, world.truth, tmp_path / "out")
    assert len(seen) == 48
    assert scores_of(folder, world.truth, tmp_path / "out") == before
    assert len(seen) == 48
    np.save(folder / "scene_000003.jpg.npy", np.zeros((4, 4)))
    assert scores_of(folder, world.truth, tmp_path / "out")["degenerate"] == 1
    assert len(seen) == 96


def test_sizes_come_from_the_truth_a_file_or_the_maps(
    vitatlas, atlas: Atlas, world: SyntheticDataset, masks: dict, tmp_path: Path
) -> None:
    truths = read_truth(world.truth)
    boxes = [f"{key}.jpg,{','.join(map(str, box))}" for key, truth in truths.by_key.items() for box in truth.boxes]
    (tmp_path / "truth.csv").write_text("\n".join(["image_id,x0,y0,x1,y1", *boxes]))
    sizes = [f"{key}.jpg,{truth.width},{truth.height}" for key, truth in truths.by_key.items()]
    (tmp_path / "image_sizes.txt").write_text("\n".join(sizes))
    folder = write_masks(masks, tmp_path / "masks")
    given = ["score", folder, "--truth", tmp_path / "truth.csv", "--out"]
    code, _, err = vitatlas(*given, tmp_path / "none")
    assert code == 2
    assert "its truth gives no size of the image" in err
    assert "--sizes FILE" in err
    tables = []
    for number, option in enumerate((tmp_path / "image_sizes.txt", "maps")):
        code, text, err = vitatlas(*given, tmp_path / f"out{number}", "--sizes", option, "--json")
        assert code == 0, err
        tables.append(text)
    expected = scores_of(folder, world.truth, tmp_path / "out")["maxboxacc_v2"]
    assert tables[0] == tables[1]
    assert f'"maxboxacc_v2": {expected}' in tables[0]


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("a/b.atlas", "b.atlas", "a/b.atlas"),
        ("TS-CAM=maps/", "TS-CAM", "maps/"),
        ("x/boxes.csv", "boxes", "x/boxes.csv"),
        ("./lr=1/maps", "maps", "./lr=1/maps"),
        ("s3://bucket/a=b", "a=b", "s3://bucket/a=b"),
        ("maps.tar", "maps", "maps.tar"),
    ],
)
def test_a_source_has_a_name(text: str, name: str, path: str) -> None:
    assert split_source_name(text) == (name, path)


@pytest.mark.parametrize("text", ["=maps", "name=", "a\x1b[31m=maps"])
def test_a_name_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no NAME=PATH"):
        split_source_name(text)
