"""Which images are scored, which are tuned on, and which are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from score.builders import boxed, change, first, of_keys, rows_of, small, without
from support import samples, write_tar

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label.calibrate import CalibrationSource
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.score import score
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.errors import UsageError
from schemas.policy import Policy, Threshold
from schemas.run import RunSpec


def test_a_subset_counts_what_both_have_and_says_what_is_left_out(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    def some(content: dict) -> None:
        first(20)(content)
        content["images"].append(content["images"][0] | {"id": 999, "file_name": "elsewhere.jpg"})

    messages: list[str] = []
    row = small(atlas, change(world, tmp_path, some), tmp_path, log=messages.append)["legrad"]
    assert (row["images"], row["tuning_images"]) == (20, 10)
    assert [line.split(" images of ")[0] for line in messages] == ["28 of 48", "1 of 21"]


def test_unlikely_truth_is_said_before_it_is_scored(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    def add_a_class(content: dict) -> None:
        first(12)(content)
        content["annotations"].append(content["annotations"][0] | {"id": 999, "category_id": 99})

    messages: list[str] = []
    small(atlas, change(world, tmp_path, add_a_class), tmp_path, subset=True, log=messages.append)
    assert any(line.startswith("1 image has objects of several classes") for line in messages)


def test_tuning_on_images_that_are_named(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    truth = change(world, tmp_path, first(24))
    content = json.loads(Path(truth).read_text())
    first(6)(content)
    (tmp_path / "split.json").write_text(json.dumps(content))
    row = small(atlas, truth, tmp_path, tuning_truth=read_truth(tmp_path / "split.json"))["legrad"]
    assert (row["images"], row["tuning_images"], row["test_images"]) == (24, 6, 18)


def test_tuning_on_another_atlas(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    truth = change(world, tmp_path, first(24))
    options = {"tuning_truth": read_truth(truth), "tuning_sources": atlas}
    row = small(atlas, truth, tmp_path, **options)["legrad"]
    assert (row["images"], row["tuning_images"], row["test_images"]) == (24, 24, 24)
    assert row["threshold"] == row["threshold_oracle"]  # the same images
    assert (row["gt_known"], row["boxacc_v2"], row["iou"]) == (row["maxboxacc"], row["maxboxacc_v2"], row["iou_oracle"])
    assert (tmp_path / "out" / "tuning" / "commits").is_dir()


def test_images_without_maps_or_objects_are_counted(spec: RunSpec, tmp_path: Path) -> None:
    members = [(name, b"no image" if name == "s0013.jpg" else data) for name, data in samples(4, 12)]
    write_tar(tmp_path / "shards" / "part-2.tar", members)
    out = str(tmp_path / "atlas")
    plan(spec, out)
    atlas = run(out, INLINE)
    rows = atlas.samples(["key", "width", "height"]).to_pylist()
    images = [
        {"id": place, "file_name": f"{row['key']}.jpg", "width": row["width"] or 40, "height": row["height"] or 30}
        for place, row in enumerate(rows)
    ]
    boxes = [{"id": place + 1, "image_id": place, "bbox": [2, 2, 9, 8]} for place in range(len(images))]
    for box in boxes[:2]:
        box |= {"iscrowd": 1, "segmentation": [[2, 2, 9, 2, 9, 9, 2, 9]]}
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    row = rows_of(score(Atlas.open(out), read_truth(tmp_path / "truth.json"), methods=["random"]))["random"]
    assert (row["images"], row["without_object"], row["without_maps"]) == (13, 2, 1)
    assert (tmp_path / "atlas" / "scores" / "truth-json-label" / "localization.parquet").exists()


def test_an_image_without_boxes_has_no_object_where_a_person_has_seen_it(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    """On the page of ``annotate``. COCO of others, and of ``pack``, may list images that nobody has annotated."""

    def some(own: dict[str, str | bool]) -> Callable[[dict], None]:
        def keep(content: dict) -> None:
            first(20)(content)
            boxes = [item for item in content["annotations"] if item["image_id"] >= 4]
            content["annotations"] = [{name: item[name] for name in ("id", "image_id", "bbox")} for item in boxes]
            content["info"] = {"vit_atlas": own}

        return keep

    drawn = change(world, tmp_path, some({"page": "sha256:00", "whole_keys": True}))
    row = small(atlas, drawn, tmp_path, subset=True)["legrad"]
    assert (row["images"], row["without_object"]) == (16, 4)
    row = small(atlas, change(world, tmp_path, some({"whole_keys": True})), tmp_path / "packed", subset=True)["legrad"]
    assert (row["images"], row["without_object"]) == (16, 0)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (without(30), "scene_000030: truth.json has no annotation of this image"),
        (
            first(40),
            r"scene_000040: truth.json has no annotation of this image of .*, nor 7 others; add it, or .* --subset",
        ),
        (
            lambda c: c["images"].append(c["images"][0] | {"id": 999, "file_name": "x/elsewhere.jpg"}),
            "x/elsewhere: is in truth.json, but .* has no such image; .* --subset",
        ),
        (lambda c: c["images"][5].update(width=7), r"scene_000005: is \d+×\d+ pixels, but 7×\d+ in the truth"),
    ],
)
def test_images_that_only_one_side_has_are_refused_and_nothing_is_written(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path, how, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        score(atlas, read_truth(change(world, tmp_path, how)), methods=["center"], out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keys", "file_names", "says"),
    [
        (
            {"a": ["x/s0", "s1"], "b": ["x/s0", "s2"]},
            ["x/s0.jpg", "s1.jpg", "s2.jpg"],
            "x/s0 would be the truth of x/s0 in b and x/s0 in a;",
        ),
        (
            {"a": ["0/000", "0/001"], "b": ["1/000", "1/001"]},
            ["class0/000.jpg", "class0/001.jpg"],
            "class0/000 would be the truth of 1/000 in b and 0/000 in a;",
        ),
        ({"a": ["0/000", "1/000"], "b": ["s1"]}, ["000.jpg", "s1.jpg"], "000 would be the truth of 1/000 in a and 0/0"),
    ],
)
@pytest.mark.parametrize("role", ["truth", "tune", "calibrate"])
def test_one_truth_is_not_that_of_two_samples(
    spec: RunSpec, tmp_path: Path, keys: dict, file_names: list, says: str, role: str
) -> None:
    atlas = of_keys(spec, tmp_path, keys)
    truth = boxed(tmp_path / "truth.json", file_names)
    own = boxed(tmp_path / "own.json", ["none.jpg"])
    uses = {
        "truth": lambda: score(atlas, read_truth(truth), subset=True),
        "tune": lambda: score(atlas, read_truth(own), tuning_truth=read_truth(truth), subset=True),
        "calibrate": lambda: CalibrationSource(read_truth(truth)).find_threshold(
            atlas, Policy(name="p", methods=("random",), threshold=Threshold(kind="calibrated"))
        ),
    }
    with pytest.raises(UsageError, match=f"truth.json: {says}"):
        uses[role]()
    assert not (Path(atlas.objects.url) / "scores").exists()


def test_a_duplicate_in_one_tar_is_no_second_image(spec: RunSpec, tmp_path: Path) -> None:
    atlas = of_keys(spec, tmp_path, {"a": ["s0", "s1", "s0", "s2"]})
    assert atlas.statuses()["duplicate_key"] == 1
    truth = boxed(tmp_path / "truth.json", ["s0.jpg", "s1.jpg", "s2.jpg"])
    assert rows_of(score(atlas, read_truth(truth)))["random"]["images"] == 3


def test_thresholds_of_another_network_are_refused(atlas: Atlas, finished: Path, world: SyntheticDataset) -> None:
    with pytest.raises(UsageError, match="is of another network"):
        score(
            atlas,
            read_truth(world.truth),
            methods=["legrad"],
            tuning_truth=read_truth(world.truth),
            tuning_sources=Atlas.open(str(finished)),
        )
