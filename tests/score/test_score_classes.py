"""Scores of open vocabulary of a small atlas: those of its maps by hand, kept, and refused where they must be."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support import jpeg, write_tar

from pipeline.image.score_map import visible_window
from pipeline.image.upsample import upsample_to_image
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.score import score_classes
from pipeline.score.segmentation_metrics import linear_map
from pipeline.store import Atlas
from pipeline.truth import read_truth
from pipeline.truth.voc import CLASSES
from schemas.errors import UsageError
from schemas.run import ModelSpec, RunSpec
from schemas.scores import CLASS_IOUS, CLASS_SCORES

KEYS = [f"s{number:03d}" for number in range(12)]
WIDTH, HEIGHT = 40, 30
HEADER = "ImageId,X,Y,Label,EstimatedYesNo,Source,YesVotes,NoVotes,UnsureVotes,TextLabel"


def label_of(number: int) -> int:
    return number % 3


@pytest.fixture(scope="module")
def small_atlas(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """Twelve images of three classes, in two shards."""
    folder = tmp_path_factory.mktemp("classes")
    for index in range(2):
        members = [
            (f"{key}.{extension}", data)
            for number, key in list(enumerate(KEYS))[index::2]
            for extension, data in (
                ("jpg", jpeg(number, (WIDTH, HEIGHT))),
                ("cls", str(label_of(number)).encode()),
            )
        ]
        write_tar(folder / "shards" / f"part-{index}.tar", members)
    shards = (str(folder / "shards" / "part-{0..1}.tar"),)
    targets = ("label", "predicted", "class:0,1,2,9", "top:2")
    spec = RunSpec(shards=shards, model=checkpoint, methods=("attention", "legrad"), targets=targets)
    plan(spec, str(folder / "atlas"))
    return run(str(folder / "atlas"), INLINE)


def write_points(folder: Path, keys: list[str] = KEYS, seed: int = 0) -> tuple[Path, dict[str, list[tuple]]]:
    """Points of the label of each image, and of one class more."""
    rng = np.random.default_rng(seed)
    points = {}
    for key in keys:
        x, y = rng.random((2, 8))
        answers = [True, *(rng.random(7) < 0.5)]
        points[key] = list(zip(x.tolist(), y.tolist(), answers, strict=True))
    lines = []
    for key, of_key in points.items():
        label = label_of(KEYS.index(key))
        lines += [
            f"{key},{x},{y},/m/{label},{'yes' if answer else 'no'},ih,1,0,0,name {label}" for x, y, answer in of_key
        ]
    lines.append(f"{keys[0]},0.5,0.5,/m/9,no,ih,0,1,0,name 9")
    file = folder / "oidv7-val-annotations-point-labels.csv"
    file.write_text("\n".join([HEADER, *lines]) + "\n")
    return file, points


def test_points_give_what_the_maps_say_by_hand(small_atlas: Atlas, tmp_path: Path) -> None:
    file, points = write_points(tmp_path)
    names = [f"Name {number}" for number in range(10)]
    table = score_classes(small_atlas, read_truth(file), class_names=names, out=str(tmp_path / "out"))
    assert table.schema == CLASS_SCORES
    assert pq.read_table(tmp_path / "out" / "class_scores.parquet").equals(table)
    samples = {row["key"]: row for row in small_atlas.samples().to_pylist()}
    for row in table.to_pylist():
        tp, fp, fn, pairs = np.zeros(3), np.zeros(3), np.zeros(3), []
        for number, key in enumerate(KEYS):
            window = visible_window(samples[key], small_atlas.run.model.input_size)
            values = linear_map(small_atlas.map(key, row["method"]), window)
            found = [(bool(values[int(y * 224), int(x * 224)] > 0.5), answer) for x, y, answer in points[key]]
            hit, false, missed, right = (
                sum(pair == kind for pair in found)
                for kind in ((True, True), (True, False), (False, True), (False, False))
            )
            tp[label_of(number)] += hit
            fp[label_of(number)] += false
            fn[label_of(number)] += missed
            pairs.append(sum(both / max(1, both + false + missed) for both in (hit, right)) / 2)
        assert row["p_miou"] == pytest.approx(100 * (tp / (tp + fp + fn)).mean())
        assert row["p_miou_pairs"] == pytest.approx(100 * np.mean(pairs), abs=1e-3)
        assert (row["images"], row["classes"], row["points_outside"], row["miou"]) == (12, 3, 0, None)
    per_class = pq.read_table(tmp_path / "out" / "class_ious.parquet")
    assert per_class.schema == CLASS_IOUS
    first = [row for row in per_class.to_pylist() if row["method"] == table["method"][0].as_py()]
    assert [(row["class"], row["name"]) for row in first] == [(0, "name 0"), (1, "name 1"), (2, "name 2")]
    assert np.mean([row["iou"] for row in first]) == pytest.approx(table["p_miou"][0].as_py())


def test_points_of_a_class_without_a_map_are_refused_or_left_out(small_atlas: Atlas, tmp_path: Path) -> None:
    file, _ = write_points(tmp_path)
    with file.open("a") as stream:
        stream.write(f"{KEYS[0]},0.5,0.5,/m/9,yes,ih,1,0,0,name 9\n")
    truth, names = read_truth(file), [f"name {number}" for number in range(10)]
    with pytest.raises(UsageError, match="s000: has points of class 9, but no map of it; plan with that class"):
        score_classes(small_atlas, truth, class_names=names, out=str(tmp_path / "out"))
    table = score_classes(small_atlas, truth, class_names=names, subset=True, out=str(tmp_path / "part"))
    assert table["classes_without_map"].to_pylist() == [1, 1]
    assert table["classes"].to_pylist() == [3, 3]


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of the label of each image, with ignored pixels."""
    folder = tmp_path_factory.mktemp("VOC2012") / "SegmentationClass"
    folder.mkdir()
    for number, key in enumerate(KEYS):
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        values[5:20, 3 : 10 + 2 * number] = label_of(number) + 1
        values[-2:] = 255
        Image.fromarray(values, "L").convert("P").save(folder / f"{key}.png")
    return folder.parent


def test_masks_give_what_the_maps_say_by_hand(small_atlas: Atlas, voc: Path, tmp_path: Path) -> None:
    truth, names = read_truth(voc), CLASSES[:10]
    with pytest.raises(UsageError, match=r"the network lacks 10 of its classes .* --subset"):
        score_classes(small_atlas, truth, class_names=names, out=str(tmp_path / "all"))
    table = score_classes(small_atlas, truth, class_names=names, subset=True, out=str(tmp_path / "out"))
    samples = {row["key"]: row for row in small_atlas.samples().to_pylist()}
    for row in table.to_pylist():
        matrix = np.zeros((4, 4))
        for number, key in enumerate(KEYS):
            values = upsample_to_image(
                small_atlas.map(key, row["method"]), samples[key], small_atlas.run.model.input_size
            )
            scaled = (values - values.min()) / (values.max() - values.min())
            predicted = np.where(scaled > row["threshold_oracle"], label_of(number) + 1, 0)
            true = np.asarray(Image.open(voc / "SegmentationClass" / f"{key}.png"))
            np.add.at(matrix, (true[true < 255], predicted[true < 255]), 1)
        ious = 100 * np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
        assert row["miou_oracle"] == pytest.approx(ious.mean())
        assert row["miou"] is not None
        assert (row["images"], row["tuning_images"], row["classes"], row["p_miou"]) == (12, 6, 3, None)
        low, high = row["interval"]["miou_oracle"]
        assert low <= row["miou_oracle"] <= high
    assert table["miou_oracle"][0].as_py() == max(table["miou_oracle"].to_pylist())


def test_masks_of_images_whose_map_is_of_another_class_are_counted(
    small_atlas: Atlas, voc: Path, tmp_path: Path
) -> None:
    table = score_classes(
        small_atlas, read_truth(voc), "predicted", class_names=CLASSES[:10], subset=True, out=str(tmp_path / "out")
    )
    predictions = small_atlas.samples()["prediction"].to_pylist()
    keys = small_atlas.samples()["key"].to_pylist()
    others = sum(label_of(KEYS.index(key)) != found for key, found in zip(keys, predictions, strict=True))
    assert table["classes_without_map"].to_pylist() == [others, others]


def test_the_maps_of_all_fixed_classes_compete_for_each_pixel(small_atlas: Atlas, voc: Path, tmp_path: Path) -> None:
    """Class 9 has no name in the truth, so it is background."""
    names = [*CLASSES[:9], "sky"]
    options = {"class_names": names, "subset": True, "methods": ["legrad"]}
    table = score_classes(small_atlas, read_truth(voc), "class", **options, out=str(tmp_path / "out"))
    (row,) = table.to_pylist()
    samples = {sample["key"]: sample for sample in small_atlas.samples().to_pylist()}
    matrix = np.zeros((4, 4))
    for key in KEYS:
        scaled = []
        for class_id in (0, 1, 2, 9):
            values = small_atlas.map(key, "legrad", f"class:{class_id}")
            values = upsample_to_image(values, samples[key], small_atlas.run.model.input_size)
            scaled.append((values - values.min()) / (values.max() - values.min()))
        best = np.argmax(scaled, 0)
        predicted = np.where((np.max(scaled, 0) > row["threshold_oracle"]) & (best < 3), best + 1, 0)
        true = np.asarray(Image.open(voc / "SegmentationClass" / f"{key}.png"))
        np.add.at(matrix, (true[true < 255], predicted[true < 255]), 1)
    ious = 100 * np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert row["miou_oracle"] == pytest.approx(ious.mean())
    assert (row["target"], row["classes_without_map"]) == ("class", 0)
    alone = score_classes(small_atlas, read_truth(voc), "class:1", **options, out=str(tmp_path / "one"))
    assert alone["classes_without_map"].to_pylist() == [8]
    with pytest.raises(UsageError, match="has no target 'classes'"):
        score_classes(small_atlas, read_truth(voc), "classes", **options, out=str(tmp_path / "none"))


def test_the_same_command_scores_only_what_is_new(small_atlas: Atlas, voc: Path, tmp_path: Path) -> None:
    options = {"class_names": CLASSES[:10], "subset": True, "out": str(tmp_path / "out")}
    first = score_classes(small_atlas, read_truth(voc), methods=["legrad"], **options)
    both = score_classes(small_atlas, read_truth(voc), **options)
    (kept,) = (row for row in both.to_pylist() if row["method"] == "legrad")
    assert first.to_pylist() == [kept]
    other = [*CLASSES[1:10], CLASSES[0]]
    with pytest.raises(UsageError, match="holds something else"):
        score_classes(small_atlas, read_truth(voc), **(options | {"class_names": other}))


def test_the_command_shows_and_writes_them(vitatlas, small_atlas: Atlas, tmp_path: Path) -> None:
    file, _ = write_points(tmp_path)
    (tmp_path / "names.txt").write_text("".join(f"name {number}\n" for number in range(10)))
    arguments = ("score", small_atlas.objects.url, "--truth", file, "--out", tmp_path / "out")
    code, _, error = vitatlas(*arguments)
    assert code == 2
    assert "those of the network have no names; give them with --classes FILE" in error
    assert "--differences: scores of" in vitatlas(*arguments, "--differences")[2]
    code, printed, error = vitatlas(*arguments, "--classes", tmp_path / "names.txt")
    assert code == 0, error
    assert "p-mIoU" in printed
    assert "12 images, 3 classes" in " ".join(printed.split())
    code, printed, error = vitatlas(*arguments, "--classes", tmp_path / "names.txt", "--json")
    assert code == 0, error
    assert {row["method"] for row in json.loads(printed)} == {"attention", "legrad"}
    code, printed, _ = vitatlas("verify", tmp_path / "out")
    assert code == 0, printed
