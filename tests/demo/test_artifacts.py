"""What is shipped for the demo network keeps what its cards promise, on scenes it has not seen."""

import re
from pathlib import Path

import pytest
import torch
from support import DEMO_MODEL
from torch.utils.data import DataLoader

from pipeline.demo.run_demo import ARTIFACTS
from pipeline.demo.synthetic_dataset import HELD_OUT, SyntheticDataset
from pipeline.demo.train_model import SceneDataset, normalize
from pipeline.explain import PatchMask, explain
from pipeline.explain.artifacts import read_artifact
from pipeline.explain.load import LoadedModel, load_model
from pipeline.read import DecoderPool, PreprocessConfig, count_samples, expand_shards
from pipeline.train.diffmask_training import DiffMaskTraining
from pipeline.train.image_stream import ImageStream, TrainingBatch
from pipeline.train.mask_sources import open_truth_masks
from pipeline.train.masked_images import CropWindows, MaskedImages
from pipeline.utils.calibration import CalibrationError
from schemas.run import ModelSpec
from schemas.training import DiffMaskSettings, PatchMaskSettings

GATES, PM = ARTIFACTS


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(DEMO_MODEL)


def test_they_are_small_and_say_how_they_were_made() -> None:
    assert sum(Path(file).stat().st_size for file in ARTIFACTS) < 6_000_000
    guide = (Path(__file__).parents[2] / "docs" / "explanation" / "demo.md").read_text()
    commands = re.findall(r"vitatlas train (\w+) ([^`]*?)--out \S*/(\S+)", guide)
    assert [Path(file).name for file in ARTIFACTS] == [name for *_, name in commands][:2]
    for file, (method, flags, _) in zip(ARTIFACTS, commands[:2], strict=True):
        card = read_artifact(file).record
        assert card is not None
        assert card.method == method
        said = dict(re.findall(r"--([a-z-]+) ([0-9][0-9.e-]*)", flags))
        known = {"diffmask": DiffMaskSettings, "pm": PatchMaskSettings}[method]().model_dump() | {
            "steps": 20_000,
            "batch_size": 32,
        }
        made = card.settings | {"steps": card.steps, "batch_size": card.batch_size}
        changed = {name: value for name, value in made.items() if value != known[name]}
        assert {name.replace("_", "-"): float(value) for name, value in changed.items()} == {
            name: float(value) for name, value in said.items() if name.replace("-", "_") in made
        }


@pytest.fixture(scope="module")
def scenes() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pixels and labels of two thousand scenes, of another seed than those that chose the best look."""
    return [(pixels, labels) for pixels, labels, _ in DataLoader(SceneDataset(HELD_OUT, 1, 2000), 100, num_workers=2)]


@pytest.mark.soak
def test_gates_keep_the_prediction_with_few_patches(loaded: LoadedModel, scenes: list) -> None:
    training = DiffMaskTraining(loaded, DiffMaskSettings())
    training.gates.load_state_dict(read_artifact(GATES).tensors)
    with training.session():
        reached = training.evaluate(TrainingBatch(0, "", (), pixels.numpy()) for pixels, _ in scenes[:4])
    assert reached["kl"] <= 0.15
    assert reached["kept"] <= 0.6
    assert reached["kl_shuffled"] >= 5 * reached["kl"]


@pytest.mark.soak
def test_the_fine_tuned_network_is_no_worse_a_classifier(loaded: LoadedModel, scenes: list) -> None:
    tuned = load_model(ModelSpec(name=DEMO_MODEL.name, checkpoint=PM))
    with torch.no_grad():
        before, after = (
            sum(int((each.model(normalize(pixels)).argmax(1) == labels).sum()) for pixels, labels in scenes)
            for each in (loaded, tuned)
        )
    assert after >= before


def test_its_probabilities_are_what_they_say(loaded: LoadedModel, world: SyntheticDataset) -> None:
    """Against the share of each patch that the object covers, beside the read-out of untouched weights."""
    frame = PreprocessConfig.for_model(loaded.record, "squash")
    masks = open_truth_masks(str(world.truth))
    found = {"pm": CalibrationError(), "pm_zs": CalibrationError()}
    for images in ImageStream(count_samples(expand_shards((world.shards,))), frame, 24, 10, 0).iter_epoch(
        DecoderPool(0)
    ):
        batch = MaskedImages.from_batch(images, masks, frame)
        covered, _ = CropWindows.full(len(batch)).patch_coverage(torch.from_numpy(batch.planes).float(), loaded.anatomy)
        labels = torch.from_numpy(batch.labels)[:, None]
        maps = explain(loaded.model, normalize(torch.from_numpy(batch.pixels)), labels, [PatchMask.load(PM), "pm_zs"])
        for name, calibration in found.items():
            calibration.add(maps[name].flatten().numpy(), covered.flatten().numpy())
    assert found["pm"].ece < 0.05 < found["pm_zs"].ece
    assert found["pm"].brier < 0.05 < found["pm_zs"].brier
