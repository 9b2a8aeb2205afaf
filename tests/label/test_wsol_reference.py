"""Exported score maps give the reference evaluator the numbers of ``vitatlas score``, for every method."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from label.wsol_reference import Scores, evaluate
from pycocotools import mask as rle
from support import DEMO_MODEL

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import label
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.score import score
from pipeline.score.threshold_grid import ThresholdGrid
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.policy import Policy, Threshold
from schemas.run import RunSpec


def write_metadata(world: SyntheticDataset, folder: Path) -> dict[str, np.ndarray]:
    """Write the truth as the evaluator reads it, and return the masks by image id."""
    content = json.loads((world.truth / "instances.json").read_text())
    name_by_id = {image["id"]: image["file_name"] for image in content["images"]}
    masks: dict[str, np.ndarray] = {}
    boxes = []
    for annotation in content["annotations"]:
        name, mask = name_by_id[annotation["image_id"]], rle.decode(annotation["segmentation"]).astype(bool)
        masks[name] = masks.get(name, False) | mask
        x, y, width, height = map(int, annotation["bbox"])
        boxes.append(f"{name},{x},{y},{x + width - 1},{y + height - 1}")
    folder.mkdir()
    (folder / "image_ids.txt").write_text("\n".join(name_by_id.values()))
    sizes = [f"{image['file_name']},{image['width']},{image['height']}" for image in content["images"]]
    (folder / "image_sizes.txt").write_text("\n".join(sizes))
    (folder / "localization.txt").write_text("\n".join(boxes))
    return masks


def compare(atlas: Atlas, world: SyntheticDataset, folder: Path, methods: Sequence[str]) -> None:
    """Evaluate the export of methods of an atlas, and of one with the steps of the evaluator's command line."""
    masks = write_metadata(world, folder / "metadata")
    for row in score(atlas, read_truth(world.truth), methods=methods, out=str(folder / "scores")).to_pylist():
        if row["method"] not in atlas.run.methods:  # a box without a map
            continue
        policy = Policy(name="p", methods=(row["method"],), threshold=Threshold(kind="otsu"))
        out = folder / row["method"].replace(":", "_")
        label(atlas, policy, ["wsol"], str(out))
        scores = evaluate(out / "wsol" / "score_maps", folder / "metadata", masks)
        expected = Scores(row["maxboxacc"], row["maxboxacc_v2"], row["pxap"])
        assert scores == pytest.approx(expected, abs=1e-9), row["method"]
        ids = (out / "wsol" / "metadata" / "image_ids.txt").read_text().split()
        assert sorted(ids) == sorted(masks)
    grid = ThresholdGrid(0.01)
    coarse = score(
        atlas, read_truth(world.truth), methods=["legrad"], out=str(folder / "coarse"), grid=grid
    ).to_pylist()
    (row,) = (row for row in coarse if row["method"] == "legrad")
    scores = evaluate(folder / "legrad" / "wsol" / "score_maps", folder / "metadata", masks, 0.01)
    assert scores == pytest.approx(Scores(row["maxboxacc"], row["maxboxacc_v2"], row["pxap"]), abs=1e-9)


def test_score_maps_give_the_reference_the_numbers_of_the_table(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    """``uniform`` has a signal in no image: the evaluator needs a map all the same, and counts it as a miss."""
    compare(atlas, world, tmp_path, ["legrad", "uniform"])


@pytest.mark.soak
def test_score_maps_of_all_methods_give_the_reference_the_numbers_of_the_table(
    world: SyntheticDataset, tmp_path: Path
) -> None:
    plan(RunSpec(shards=(world.shards,), model=DEMO_MODEL), str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    compare(atlas, world, tmp_path, atlas.run.methods)


def test_the_metadata_of_an_export_can_be_evaluated(atlas: Atlas, tmp_path: Path) -> None:
    """Pseudo-boxes as truth: each image has one, also where the mask is empty or the policy left it out."""
    cases = (("constant", "uniform", Threshold(kind="otsu")), ("empty", "legrad", Threshold(kind="fixed", value=1)))
    for name, method, kind in cases:
        policy = Policy(name=name, methods=(method,), threshold=kind)
        label(atlas, policy, ["wsol"], str(tmp_path / name))
        folder = tmp_path / name / "wsol"
        ids = (folder / "metadata" / "image_ids.txt").read_text().split()
        anything = dict.fromkeys(ids, np.ones((4, 4), bool))
        assert len(ids) == 48
        scores = evaluate(folder / "score_maps", folder / "metadata", anything)
        assert scores.maxboxacc == (100 if name == "constant" else 0)  # nothing is found where nothing is
