"""The example of a training: its pieces mean what they say, and it learns."""

import re
from pathlib import Path

import numpy as np
import pytest
import segmenter
import torch
import yaml
from segmenter import (
    DEFAULT_POLICY,
    Segmenter,
    mean_iou,
    predict_mask,
    to_training_pair,
    train_segmenter,
    write_true_masks,
)

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import MaskDataset, MaskSample, iter_labels, label
from pipeline.label.calibrate import mask_overlap
from pipeline.store import Atlas
from pipeline.truth import read_truth


@pytest.fixture(scope="module")
def true(world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The true masks of the world."""
    folder = tmp_path_factory.mktemp("true")
    write_true_masks(world, folder)
    return folder


def test_true_masks_are_the_truth(world: SyntheticDataset, true: Path) -> None:
    truths = read_truth(world.truth)
    samples = list(MaskDataset(world.shards, true))
    assert [sample.key for sample in samples] == list(truths)
    for sample in samples:
        assert np.array_equal(sample.mask == 1, truths.find(sample.key).mask)


def test_truth_overlaps_with_itself_and_nothing_with_nothing(world: SyntheticDataset, true: Path) -> None:
    dataset = MaskDataset(world.shards, true)
    assert mean_iou(dataset, lambda sample: sample.mask.numpy() == 1) == 1
    assert mean_iou(dataset, lambda sample: None) == 0
    assert mean_iou(dataset, lambda sample: sample.mask.numpy() == 0) == 0


def test_what_is_ignored_is_not_learnt_from() -> None:
    mask = torch.tensor([[0, 1], [255, 1]], dtype=torch.uint8)
    pixels, classes = to_training_pair(MaskSample("a", torch.zeros(3, 2, 2, dtype=torch.uint8), mask, 4))
    assert pixels.shape == (3, 96, 96)
    assert torch.equal(classes[[0, 0, -1, -1], [0, -1, 0, -1]], torch.tensor([0, 5, 255, 5]))


@pytest.mark.soak
def test_it_learns_from_pseudo_masks(world: SyntheticDataset, atlas: Atlas, true: Path, tmp_path: Path) -> None:
    label(atlas, DEFAULT_POLICY, ["png"], str(tmp_path))
    truth = MaskDataset(world.shards, true)
    untrained = mean_iou(truth, lambda sample: predict_mask(Segmenter().eval(), sample))
    model = train_segmenter(MaskDataset(world.shards, tmp_path / "png", to_training_pair, shuffle=48), 10, batch_size=8)
    assert mean_iou(truth, lambda sample: predict_mask(model, sample)) > untrained + 0.2


def test_it_says_how_good_the_pseudo_masks_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump(DEFAULT_POLICY.model_dump(mode="json")))
    options = ["--policy", str(policy), "--scenes", "8", "--held-out", "4", "--epochs", "1"]
    monkeypatch.setattr("sys.argv", ["segmenter", str(tmp_path / "out"), *options])
    segmenter.main()
    rows = dict(re.findall(r"│ (\w.*?) +│ (0\.\d+)", capsys.readouterr().out))
    assert list(rows) == ["pseudo-masks", "segmenter trained on pseudo-masks", "segmenter trained on true masks"]
    atlas, truths = Atlas.open(str(tmp_path / "out/heldout/atlas")), read_truth(tmp_path / "out/heldout/truth")
    labels = [each for shard in atlas.commits for each in iter_labels(atlas, shard, DEFAULT_POLICY)]
    expected = np.mean([mask_overlap(each, truths.find(each.sample["key"])) for each in labels])
    assert float(rows["pseudo-masks"]) == pytest.approx(expected, abs=6e-4)
