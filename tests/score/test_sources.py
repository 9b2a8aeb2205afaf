"""Predictions of other programs have the scores that they have by the protocol, whatever form they come in."""

import io
from pathlib import Path

import numpy as np
import pytest
from label.test_wsol_reference import write_metadata
from label.wsol_reference import Scores, evaluate
from PIL import Image
from score.builders import change, first, rows_of
from score.some_sources import pack_tar, read_all, runs_of, write_maps, write_masks, write_results

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import label
from pipeline.score import open_source, score, score_shard
from pipeline.score.score_shard import ScoredImage, count_prediction
from pipeline.score.sources import file_source
from pipeline.score.sources.decode_map import decode_map
from pipeline.store import Atlas
from pipeline.truth import TruthSet, read_truth
from pipeline.utils.source_name import split_source_name
from schemas.errors import UsageError
from schemas.policy import Policy, Threshold
from schemas.scores import SCORES


@pytest.fixture(scope="module")
def truth(world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> TruthSet:
    """Of 12 images."""
    return read_truth(change(world, tmp_path_factory.mktemp("truth"), first(12)))


@pytest.fixture(scope="module")
def masks(truth: TruthSet) -> dict[str, np.ndarray]:
    return {key: truth.by_key[key].mask for key in truth}


def scores_of(path: Path, truth: TruthSet, out: Path, **options) -> dict:
    """Return the row of a source of one method."""
    return rows_of(score(open_source(str(path), truth, "other"), truth, out=str(out), **options))["other"]


@pytest.fixture(scope="module")
def legrad(atlas: Atlas, truth: TruthSet, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Scores of the maps where they are, in the atlas."""
    out = str(tmp_path_factory.mktemp("legrad") / "out")
    return rows_of(score(atlas, truth, methods=["legrad"], subset=True, out=out))["legrad"]


def test_maps_of_an_atlas_have_the_same_scores_as_files(
    atlas: Atlas, truth: TruthSet, legrad: dict, tmp_path: Path
) -> None:
    """Any scale: these are 7 × map − 3. Other programs have no predictions of classes."""
    row = scores_of(write_maps(atlas, truth, "legrad", tmp_path / "maps"), truth, tmp_path / "out")
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
    atlas: Atlas, world: SyntheticDataset, truth: TruthSet, legrad: dict, tmp_path: Path
) -> None:
    label(atlas, Policy(name="p", methods=("legrad",), threshold=Threshold(kind="otsu")), ["wsol"], str(tmp_path / "l"))
    folder = tmp_path / "l" / "wsol" / "score_maps"
    write_metadata(world, tmp_path / "metadata")
    ids = (tmp_path / "metadata" / "image_ids.txt").read_text().split()[:12]
    (tmp_path / "metadata" / "image_ids.txt").write_text("\n".join(ids))
    row = scores_of(folder, truth, tmp_path / "out", subset=True)
    by_id = {image_id: truth.by_key[image_id.removesuffix(".jpg")].mask for image_id in ids}
    reference = evaluate(folder, tmp_path / "metadata", by_id)
    assert reference == pytest.approx(Scores(row["maxboxacc"], row["maxboxacc_v2"], row["pxap"]), abs=1e-9)
    for name in ("pxap", "maxboxacc", "maxboxacc_v2", "iou30", "iou50", "iou70", "gt_known", "boxacc_v2", "gt_known_20",
                 "iou", "iou_oracle", "f_beta", "pointing", "energy"):  # fmt: skip
        assert row[name] == pytest.approx(legrad[name], abs=1e-6), name


def test_arrays_are_read_from_npz_and_from_a_tar_as_from_npy(atlas: Atlas, truth: TruthSet, tmp_path: Path) -> None:
    folder = write_maps(atlas, truth, "legrad", tmp_path / "maps")
    expected = read_all(open_source(str(folder), truth))
    zipped = write_maps(atlas, truth, "legrad", tmp_path / "npz", ".npz")
    assert expected.keys() == set(truth)
    for path in (pack_tar(folder, tmp_path / "maps.tar"), zipped):
        found = read_all(open_source(str(path), truth))
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_array_equal(found[key], values)


def test_true_masks_are_perfect(truth: TruthSet, masks: dict, tmp_path: Path) -> None:
    row = scores_of(write_masks(masks, tmp_path / "masks"), truth, tmp_path / "out")
    assert (row["pxap"], row["iou"], row["pointing"], row["iou_oracle"]) == pytest.approx((100, 100, 100, 100))
    assert row["images"] == 12


def test_masks_are_read_from_run_lengths_and_arrays(truth: TruthSet, masks: dict, tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    for index, (key, mask) in enumerate(masks.items()):
        np.save(tmp_path / "arrays" / f"{key}.npy", mask if index % 2 else mask.astype(np.int16) * 9)
    ids = {key: image_id for image_id, key in truth.keys_by_id.items()}
    results = [{"image_id": ids[key], "category_id": 1, "segmentation": runs_of(mask)} for key, mask in masks.items()]
    for path in (tmp_path / "arrays", write_results(results, tmp_path / "results.json")):
        found = read_all(open_source(str(path), truth))
        for key, mask in masks.items():
            assert found[key].dtype == bool
            np.testing.assert_array_equal(found[key], mask)


def test_gray_pngs_are_scores_and_indices_are_objects() -> None:
    def png(image: Image.Image) -> bytes:
        image.save(stream := io.BytesIO(), "PNG")
        return stream.getvalue()

    scores = np.arange(200, dtype=np.uint8).reshape(10, 20)
    for values in (scores, scores.astype(np.uint16) * 300):
        found = decode_map(png(Image.fromarray(values)), "a.png")
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, values)
    indices = Image.fromarray(np.array([[0, 1, 7], [255, 0, 255]], np.uint8))
    indices.putpalette(bytes(range(256)) * 3)
    np.testing.assert_array_equal(decode_map(png(indices), "a.png"), [[False, True, True], [False] * 3])
    one_bit = Image.fromarray(np.eye(8) > 0)
    np.testing.assert_array_equal(decode_map(png(one_bit), "a.PNG"), np.eye(8) > 0)


def test_true_boxes_are_hits_and_have_no_pixel_scores(truth: TruthSet, tmp_path: Path) -> None:
    lines = [f"{key}.jpg,{','.join(map(str, image.boxes[0]))}" for key, image in truth.by_key.items()]
    (tmp_path / "boxes.csv").write_text("\n".join(["image_id,x0,y0,x1,y1", *lines]))
    row = scores_of(tmp_path / "boxes.csv", truth, tmp_path / "out")
    assert (row["maxboxacc"], row["maxboxacc_v2"], row["gt_known"]) == (100, 100, 100)
    assert (row["pxap"], row["iou"], row["pointing"], row["threshold"], row["gt_known_20"]) == (None,) * 5
    ids = {key: image_id for image_id, key in truth.keys_by_id.items()}
    results = []
    for key, image in truth.by_key.items():
        x0, y0, x1, y1 = (int(side) for side in image.boxes[0])
        good = {"image_id": ids[key], "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1], "score": 0.9}
        results += [{"image_id": ids[key], "bbox": [0, 0, 1, 1], "score": 0.1}, good]
    best = read_all(open_source(str(write_results(results, tmp_path / "results.json")), truth))
    for key, image in truth.by_key.items():
        assert best[key].tolist() == image.boxes[0].tolist()


def test_a_pixel_has_the_score_of_the_best_mask(truth: TruthSet, masks: dict, tmp_path: Path) -> None:
    key = next(iter(masks))
    left, everywhere = np.zeros(masks[key].shape, bool), np.ones(masks[key].shape, bool)
    left[:, : left.shape[1] // 2] = True
    results = [
        {"image_id": f"{key}.jpg", "segmentation": runs_of(mask), "score": score}
        for mask, score in ((left, 0.75), (everywhere, 0.5))
    ]
    found = read_all(open_source(str(write_results(results, tmp_path / "r.json")), truth))
    np.testing.assert_array_equal(found[key], np.where(left, 0.75, 0.5))


ONE_INFINITE = np.random.default_rng(0).random((900, 900))
ONE_INFINITE[450, 451] = np.inf  # a pixel that no tap of the reduction to 224 × 224 needs to read


@pytest.mark.parametrize(
    ("values", "is_degenerate"),
    [
        (np.full((9, 9), 2.0), True),
        (np.full((300, 300), np.nan), True),
        (ONE_INFINITE, True),
        (np.zeros((9, 9), bool), True),
        (np.ones((9, 9), bool), False),
        (np.eye(9), False),
    ],
)
def test_maps_without_a_signal_are_counted_and_are_misses(values: np.ndarray, is_degenerate: bool) -> None:
    """A mask that is True everywhere is the whole image."""
    nothing = np.zeros((224, 224), bool)
    image = ScoredImage(0, np.array([[0, 0, 223, 223]]), None, nothing, None, (0, 0, 1, 1))
    counts = count_prediction(values, image)
    assert counts["degenerate"] == is_degenerate
    assert np.any(counts["hits"]) != is_degenerate


def test_images_that_only_one_side_has_are_refused_or_left_out(atlas: Atlas, truth: TruthSet, tmp_path: Path) -> None:
    folder = write_maps(atlas, truth, "legrad", tmp_path / "maps")
    (folder / "scene_000003.jpg.npy").rename(folder / "elsewhere.npy")
    with pytest.raises(UsageError, match=r"elsewhere: .*no annotation of this image"):
        scores_of(folder, truth, tmp_path / "out")
    (folder / "elsewhere.npy").unlink()
    with pytest.raises(UsageError, match=r"scene_000003: is in .*, but .* has no such image"):
        scores_of(folder, truth, tmp_path / "out")
    messages: list[str] = []
    row = scores_of(folder, truth, tmp_path / "out", subset=True, log=messages.append)
    assert (row["images"], len(messages)) == (11, 1)
    assert messages[0].startswith("1 of 12 images of ")


def test_a_part_is_counted_again_if_one_of_its_files_changes(
    atlas: Atlas, truth: TruthSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_source, "PART_IMAGES", 4)
    folder = write_maps(atlas, truth, "legrad", tmp_path / "maps")
    seen: list[str] = []
    count = score_shard.count_prediction
    monkeypatch.setattr(score_shard, "count_prediction", lambda p, image: seen.append(image.key) or count(p, image))
    assert scores_of(folder, truth, tmp_path / "out")["degenerate"] == 0
    assert sorted(seen) == sorted(truth)
    np.save(folder / "scene_000005.jpg.npy", np.zeros((4, 4)))
    seen.clear()
    assert scores_of(folder, truth, tmp_path / "out")["degenerate"] == 1
    assert sorted(seen) == [f"scene_{number:06d}" for number in range(4, 8)]


def test_sizes_come_from_the_truth_a_file_or_the_maps(vitatlas, truth: TruthSet, masks: dict, tmp_path: Path) -> None:
    boxes = [f"{key}.jpg,{','.join(map(str, box))}" for key, image in truth.by_key.items() for box in image.boxes]
    (tmp_path / "truth.csv").write_text("\n".join(["image_id,x0,y0,x1,y1", *boxes]))
    sizes = [f"{key}.jpg,{image.width},{image.height}" for key, image in truth.by_key.items()]
    (tmp_path / "image_sizes.txt").write_text("\n".join(sizes))
    folder = write_masks(masks, tmp_path / "masks")
    given = ["score", folder, "--truth", tmp_path / "truth.csv", "--out"]
    code, _, err = vitatlas(*given, tmp_path / "none")
    assert code == 2
    assert "its truth gives no size of the image" in err
    assert "--sizes FILE" in err
    for flag, value in (("--methods", "legrad"), ("--target", "predicted")):
        code, _, err = vitatlas(*given, tmp_path / "none", flag, value)
        assert (code, f"{flag}: selects maps of atlases, and no SOURCE is one" in err) == (2, True)
    table = ["score", tmp_path / "truth.csv", *given[2:], tmp_path / "none", "--sizes"]
    assert "--sizes maps: no SOURCE has map files" in vitatlas(*table, "maps")[2]
    code, text, err = vitatlas(*given, tmp_path / "out", "--sizes", tmp_path / "image_sizes.txt", "--json")
    assert code == 0, err
    assert '"maxboxacc": 100.0' in text
    source = open_source(str(folder), read_truth(tmp_path / "truth.csv"), are_image_sized=True)
    (images,) = (source.images(shard) for shard in source.shard_names)
    assert {image.key: image.size for image in images} == {key: truth.by_key[key].size for key in truth}


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
