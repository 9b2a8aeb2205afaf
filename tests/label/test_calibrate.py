"""A calibrated policy finds its threshold on a small split, and on nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import samples

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import CalibrationSource, iter_labels, label, read_labels
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.errors import UsageError
from schemas.policy import Policy, Postprocess, Threshold

POLICY = Policy(
    name="legrad-otsu", methods=("legrad",), threshold=Threshold(kind="otsu"), postprocess=Postprocess(min_area=0.01)
)


def test_a_policy_that_is_not_calibrated_is_not_tuned(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its threshold is not calibrated"):
        label(atlas, POLICY, ["png"], str(tmp_path / "out"), CalibrationSource(read_truth(world.truth)))
    assert not (tmp_path / "out").exists()


CALIBRATED = Policy(name="calibrated", methods=("legrad",), threshold=Threshold(kind="calibrated"))


def split(world: SyntheticDataset, tmp_path: Path, keep: int) -> Path:
    """The truth of the first scenes only."""
    content = json.loads((world.truth / "instances.json").read_text())
    content["images"] = content["images"][:keep]
    there = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in there]
    (tmp_path / "split.json").write_text(json.dumps(content))
    return tmp_path / "split.json"


def test_a_calibrated_threshold_is_the_best_on_the_split_and_nothing_else_is_looked_at(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    truth = split(world, tmp_path, 8)
    made = label(atlas, CALIBRATED, ["png"], str(tmp_path / "out"), CalibrationSource(read_truth(truth)))
    known = read_truth(world.truth)
    means = {}
    for at in (each / 50 for each in range(1, 50)):
        overlaps = []
        for each in iter_labels(atlas, "demo-validation-00", CALIBRATED.with_threshold(at)):
            if each.sample["ordinal"] < 8:
                real = known.find(each.sample["key"]).mask
                overlaps.append((each.mask & real).sum() / (each.mask | real).sum())
        means[at] = np.mean(overlaps)
    best = max(means, key=means.get)
    assert made.policy.threshold == Threshold(kind="fixed", value=best)
    assert f"largest mean IoU, {means[best]:.4f}, of 8 images in split.json" in made.calibration
    table = read_labels(str(tmp_path / "out"))
    assert set(table["threshold"].to_pylist()) == {best}
    about = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert about["hash"] == CALIBRATED.with_threshold(best).digest()
    assert about["policy"]["threshold"]["kind"] == "calibrated"


def test_masks_and_boxes_are_not_mixed_in_one_mean(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    file = split(world, tmp_path, 8)
    content = json.loads(file.read_text())
    del content["annotations"][0]["segmentation"]
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"split.json: has masks of some images and only boxes of others; give one"):
        label(atlas, CALIBRATED, ["png"], str(tmp_path / "out"), CalibrationSource(read_truth(file)))
    assert not (tmp_path / "out").exists()


def test_a_scale_moves_the_threshold_that_was_found_and_several_methods_have_one(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    truth = CalibrationSource(read_truth(split(world, tmp_path, 8)))
    several = CALIBRATED.model_copy(update={"methods": ("legrad", "attention")})
    plain = label(atlas, several, ["png"], str(tmp_path / "plain"), truth)
    strict = several.model_copy(
        update={
            "threshold": Threshold(kind="calibrated", scale=1.5),
            "background_threshold": Threshold(kind="calibrated", scale=0.5),
        }
    )
    scaled = label(atlas, strict, ["png"], str(tmp_path / "scaled"), truth)
    assert scaled.policy.threshold == Threshold(kind="fixed", value=plain.policy.threshold.value, scale=1.5)
    assert scaled.policy.background_threshold == Threshold(kind="fixed", value=plain.policy.threshold.value, scale=0.5)
    assert scaled.ignored > plain.ignored == 0


def test_a_split_of_boxes_calibrates_by_boxes(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    content = json.loads(split(world, tmp_path, 8).read_text())
    for each in content["annotations"]:
        del each["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    made = label(
        atlas, CALIBRATED, ["png"], str(tmp_path / "out"), CalibrationSource(read_truth(tmp_path / "boxes.json"))
    )
    assert 0 < made.policy.threshold.value < 1


def test_a_split_of_other_pictures_is_a_users_mistake(atlas: Atlas, world: SyntheticDataset, tmp_path: Path) -> None:
    content = json.loads((world.truth / "instances.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"other_{image['file_name']}"
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"other\.json: has no object in any image of"):
        label(atlas, CALIBRATED, ["png"], str(tmp_path / "out"), CalibrationSource(read_truth(tmp_path / "other.json")))
    assert not (tmp_path / "out").exists()


def test_a_calibrated_threshold_stands_when_more_tars_are_finished(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name, _ in samples(16) if name.endswith(".jpg")]
    images = [
        {"id": number, "file_name": name, "width": 40 + number % 7, "height": 30 + number % 5}
        for number, name in enumerate(names)
    ]
    boxes = [{"id": number + 1, "image_id": number, "category_id": 1, "bbox": [5, 5, 20, 15]} for number in range(16)]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    tuning, out = CalibrationSource(read_truth(tmp_path / "truth.json")), str(tmp_path / "labels")
    (finished / "commits" / "part-2.json").rename(tmp_path / "part-2.json")
    first = label(Atlas.open(str(finished)), CALIBRATED, ["png"], out, tuning)
    (tmp_path / "part-2.json").rename(finished / "commits" / "part-2.json")
    second = label(Atlas.open(str(finished)), CALIBRATED, ["png"], out, tuning)
    assert second.policy == first.policy
    assert "12 images" in second.calibration
    assert sum(second.counts.values()) == 16
