"""Several sources in one table: the same images, the same resamples, and who is who."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from score.builders import change, first
from score.some_sources import write_maps

from pipeline.audit.verify_products import verify_folder
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.image.score_map import score_map
from pipeline.score import open_source, score
from pipeline.score.aggregate import WEIGHTS
from pipeline.score.box_metrics import largest_boxes, resize_boxes
from pipeline.score.counters import bootstrap_group, tuning_rank
from pipeline.score.scored_images import match_sources
from pipeline.score.sources import AtlasSource
from pipeline.store import Atlas
from pipeline.truth import TruthSet, read_truth
from schemas.errors import UsageError
from schemas.scores import DIFFERENCES, LOCALIZATION, SCORES


@pytest.fixture(scope="module")
def truth(world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> TruthSet:
    return read_truth(change(world, tmp_path_factory.mktemp("truth"), first(12)))


@pytest.fixture(scope="module")
def folder(atlas: Atlas, truth: TruthSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of 12 images, by attention."""
    return write_maps(atlas, truth, "attention", tmp_path_factory.mktemp("maps") / "maps")


@pytest.fixture(scope="module")
def compared(atlas: Atlas, truth: TruthSet, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "out"
    sources = [
        AtlasSource.of(atlas, "label", ["legrad", "center"], "demo"),
        open_source(str(folder), truth, "rival"),
    ]
    table = score(sources, truth, subset=True, out=str(out))
    assert table.schema == LOCALIZATION
    assert pq.read_table(out / "localization.parquet").equals(table)
    return out


def test_what_is_unlikely_about_the_truth_of_two_sources_is_said_once(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    def add_a_class(content: dict) -> None:
        first(12)(content)
        content["annotations"].append(content["annotations"][0] | {"id": 999, "category_id": 99})

    truth = read_truth(change(world, tmp_path, add_a_class))
    said: list[str] = []
    sources = [AtlasSource.of(atlas, "label", ["center"], name) for name in ("a", "b")]
    match_sources(sources, {}, truth, None, True, said.append)
    assert [line.partition(" in ")[0] for line in said if "classes" in line] == [
        "1 image has objects of several classes"
    ]


def rows_by_name(out: Path) -> dict[tuple[str | None, str], dict]:
    rows = pq.read_table(out / "localization.parquet").to_pylist()
    return {(row["source"], row["method"]): row for row in rows}


def test_rows_name_source_and_network_and_the_best_is_first(atlas: Atlas, compared: Path) -> None:
    rows = rows_by_name(compared)
    network = AtlasSource.of(atlas).network
    assert {name: (row["kind"], row["target"], row["network"], row["images"]) for name, row in rows.items()} == {
        ("demo", "legrad"): ("method", "label", network, 12),
        ("demo", "center"): ("control", "label", network, 12),
        ("rival", "rival"): ("method", None, None, 12),
        (None, "whole image"): ("control", None, None, 12),
        (None, "centered square"): ("control", None, None, 12),
    }
    order = [row["pxap"] for row in rows.values() if row["pxap"] is not None]
    assert order == sorted(order, reverse=True)
    assert [name for name, row in rows.items() if row["pxap"] is None] == list(rows)[-2:]
    of_network = [
        rows[None, name][score] for name in ("whole image", "centered square") for score in ("top1_loc", "top1_cls")
    ]
    assert of_network == [None] * 4
    curves = pq.read_table(compared / "curves.parquet")
    assert set(zip(curves["source"].to_pylist(), curves["method"].to_pylist(), strict=True)) == {
        name for name in rows if name[0]
    }


def test_each_source_has_the_rows_of_its_images(compared: Path) -> None:
    rows = rows_by_name(compared)
    for source, methods in (("demo", {"legrad", "center"}), ("rival", {"rival"})):
        images = ds.dataset(compared / "sources" / source / "images" / "rows").to_table().to_pylist()
        assert {row["method"] for row in images} - {"whole image", "centered square"} == methods
        for method in methods:
            ious = [row["iou"] for row in images if (row["method"], row["split"]) == (method, "test")]
            assert 100 * np.mean(np.array(ious) >= 0.5) == pytest.approx(rows[source, method]["gt_known"])
    assert {row["error"] for row in images} == {None}  # which class a file is of is not known


@pytest.mark.soak
def test_each_row_has_the_scores_that_it_has_alone(
    atlas: Atlas, truth: TruthSet, folder: Path, compared: Path, tmp_path: Path
) -> None:
    alone = score(open_source(str(folder), truth, "rival"), truth, out=str(tmp_path / "out")).to_pylist()
    (row,) = (row for row in alone if row["source"] == row["method"] == "rival")
    assert rows_by_name(compared)["rival", "rival"] == row


def test_differences_are_those_of_a_direct_bootstrap_of_the_images(
    atlas: Atlas, truth: TruthSet, compared: Path
) -> None:
    """Replicates of hits of each image, weighted by its group, without any of the counts."""
    split = set(sorted(truth, key=tuning_rank)[:6])
    hits = {}
    for method in ("legrad", "attention"):
        of_images = []
        for key in truth:
            image = truth.by_key[key]
            boxes = resize_boxes(image.boxes, *image.size)
            of_images.append(largest_boxes(score_map(atlas.map(key, method)), boxes)[1] >= 0.7)
        hits[method] = np.array(of_images)
    weights = WEIGHTS[:, [bootstrap_group(key, key in split) for key in truth]]
    accuracy = {m: 100 * ((weights @ h) / weights.sum(1)[:, None]).max(1) for m, h in hits.items()}
    expected = 100 * (hits["legrad"].mean(0).max() - hits["attention"].mean(0).max())
    low, high = np.percentile(accuracy["legrad"] - accuracy["attention"], [2.5, 97.5])
    table = pq.read_table(compared / "differences.parquet")
    assert table.schema == DIFFERENCES
    rows = [row for row in table.to_pylist() if row["score"] == "iou70"]
    signs = {("legrad", "rival"): 1, ("rival", "legrad"): -1}
    (row,) = (row for row in rows if (row["method"], row["other_method"]) in signs)
    sign = signs[row["method"], row["other_method"]]
    assert row["difference"] == pytest.approx(sign * expected)
    assert sorted((sign * row["low"], sign * row["high"])) == pytest.approx(sorted((low, high)))
    assert low < high


def test_there_is_a_difference_for_each_two_rows_and_score_that_both_have(compared: Path) -> None:
    rows = rows_by_name(compared)
    found = pq.read_table(compared / "differences.parquet").to_pylist()
    names = list(rows)
    expected = {
        (*one, *two, name)
        for index, one in enumerate(names)
        for two in names[index + 1 :]
        for name in SCORES
        if None not in (rows[one][name], rows[two][name])
    }
    keys = ("source", "method", "other_source", "other_method", "score")
    assert {tuple(row[key] for key in keys) for row in found} == expected
    assert len(found) == len(expected)
    for row in found:
        one, two = rows[row["source"], row["method"]], rows[row["other_source"], row["other_method"]]
        assert row["difference"] == one[row["score"]] - two[row["score"]]


def test_the_folder_is_verified_and_is_not_mistaken_for_another(
    atlas: Atlas, truth: TruthSet, folder: Path, compared: Path, tmp_path: Path
) -> None:
    result = verify_folder(str(compared))
    assert (result.faults, result.unfinished) == ([], [])
    one = AtlasSource.of(atlas, "label", ["legrad"], "demo")
    with pytest.raises(UsageError, match="holds scores of several sources"):
        score(one, truth, subset=True, out=str(compared))
    other = [one, open_source(str(folder), truth, "another")]
    with pytest.raises(UsageError, match="holds scores of another sources/rival"):
        score(other, truth, subset=True, out=str(compared))


def test_a_source_that_is_added_is_counted_alone(
    atlas: Atlas, truth: TruthSet, folder: Path, compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.score import score_shard

    out = shutil.copytree(compared, tmp_path / "out")
    seen: list[str] = []
    count = score_shard.count_prediction
    monkeypatch.setattr(score_shard, "count_prediction", lambda p, image: seen.append(image.key) or count(p, image))
    boxes = [f"{key},{','.join(map(str, truth.by_key[key].boxes[0]))}" for key in truth]
    (tmp_path / "psol.csv").write_text("\n".join(["image_id,x0,y0,x1,y1", *boxes]))
    sources = [
        AtlasSource.of(atlas, "label", ["legrad", "center"], "demo"),
        open_source(str(folder), truth, "rival"),
        open_source(str(tmp_path / "psol.csv"), truth),
    ]
    score(sources, truth, subset=True, out=str(out))
    assert len(seen) == 12
    rows = rows_by_name(out)
    assert rows["psol", "psol"]["maxboxacc"] == 100
    assert rows["rival", "rival"] == rows_by_name(compared)["rival", "rival"]


def test_other_images_are_refused_or_left_out_for_all(
    atlas: Atlas, truth: TruthSet, folder: Path, tmp_path: Path
) -> None:
    fewer = shutil.copytree(folder, tmp_path / "fewer")
    (fewer / "scene_000005.jpg.npy").unlink()
    names = {image: truth.by_key[image] for image in truth if image != "scene_000005"}
    sources = [open_source(str(folder), truth, "all"), open_source(str(fewer), truth, "fewer")]
    with pytest.raises(UsageError, match=r"scene_000005: .* --subset"):
        score(sources, truth, out=str(tmp_path / "out"))
    messages: list[str] = []
    table = score(sources, truth, subset=True, out=str(tmp_path / "out"), log=messages.append)
    assert set(table["images"].to_pylist()) == {len(names)}
    assert any("1 of 12 images" in line and "lack a prediction of a source" in line for line in messages)
    by_name = {row["source"]: row for row in table.to_pylist() if row["source"]}
    assert by_name["all"]["pxap"] == by_name["fewer"]["pxap"]


def test_thresholds_of_each_source_are_tuned_on_its_own_predictions(
    atlas: Atlas, world: SyntheticDataset, truth: TruthSet, folder: Path, tmp_path: Path
) -> None:
    sources = [AtlasSource.of(atlas, "label", ["attention"], "demo"), open_source(str(folder), truth, "rival")]
    tuning = {"demo": AtlasSource.of(atlas, "label", ["attention"]), "rival": sources[1]}
    table = score(sources, truth, tuning_truth=truth, tuning_sources=tuning, subset=True, out=str(tmp_path / "out"))
    one, two = (row for row in table.to_pylist() if row["kind"] == "method")
    assert (one["images"], one["tuning_images"], one["test_images"]) == (12, 12, 12)
    assert one["threshold"] == two["threshold"] == one["threshold_oracle"]  # the same maps, and the same images
    with pytest.raises(UsageError, match="give such a source for each of demo, rival"):
        score(sources, truth, tuning_truth=truth, tuning_sources={"demo": tuning["demo"]}, out=str(tmp_path / "o"))
    swapped = {"demo": sources[1], "rival": sources[1]}
    with pytest.raises(UsageError, match="is of another network"):
        score(sources, truth, tuning_truth=truth, tuning_sources=swapped, out=str(tmp_path / "o"))


def test_sources_of_one_name_and_no_folder_are_refused(folder: Path, truth: TruthSet, tmp_path: Path) -> None:
    first_, second = open_source(str(folder), truth, "TS-CAM"), open_source(str(folder), truth, "ts cam")
    with pytest.raises(UsageError, match="have one name in the table"):
        score([first_, second], truth, out=str(tmp_path / "out"))
    with pytest.raises(UsageError, match="need a folder for the results; name it with --out DIR"):
        score(first_, truth)


def test_the_command_compares_and_prints(
    vitatlas, atlas: Atlas, world: SyntheticDataset, folder: Path, tmp_path: Path
) -> None:
    truth = change(world, tmp_path, first(12))
    given = [
        "score",
        f"demo={atlas.objects.url}",
        f"rival={folder}",
        "--truth",
        truth,
        "--methods",
        "legrad",
        "--subset",
    ]
    code, _, err = vitatlas(*given)
    assert code == 2
    assert "--out DIR" in err
    code, text, err = vitatlas(*given, "--out", tmp_path / "out")
    assert code == 0, err
    for expected in (
        "demo legrad",
        "rival",
        "whole image *",
        "differences on the same images",
    ):
        assert expected in text
    assert ("demo legrad − rival" in text) != ("rival − demo legrad" in text)
