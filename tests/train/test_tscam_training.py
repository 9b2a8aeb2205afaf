"""Training of TS-CAM: what its loss is, and what it changes."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from support import images_for, small_vit
from torch import nn

from pipeline.explain import describe
from pipeline.explain.load import describe_loaded
from pipeline.explain.semantic_maps import SemanticReadout
from pipeline.read import DecodedSample
from pipeline.train.image_stream import TrainingBatch
from pipeline.train.tscam_training import TSCAMTraining
from schemas.samples import SampleStatus
from schemas.training import TSCAMSettings


def training(model: nn.Module, steps: int = 100, **settings: object) -> TSCAMTraining:
    quick = {"warmup_steps": 0, "weight_decay": 0.0, "learning_rate": 1e-3}
    return TSCAMTraining(describe_loaded("small", model), TSCAMSettings(**(quick | settings)), steps)  # type: ignore[arg-type]


def pictures(count: int = 6) -> tuple[NDArray[np.uint8], torch.Tensor]:
    """A block of the color of the class on noise in each: uint8 [count, 3, 48, 48], and the labels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 90, (count, 3, 48, 48), dtype=np.uint8)
    for place in range(count):
        y, x = 8 * rng.integers(0, 4, 2)
        pixels[place, place % 3, y : y + 24, x : x + 16] = 255
    return pixels, torch.arange(count) % 3


def test_the_loss_is_the_cross_entropy_of_the_means_of_the_maps() -> None:
    model = small_vit()
    trained, images, labels = training(model), images_for(model), torch.tensor([4, 0, 9])
    maps = trained.readout(images)[1].detach()
    logits = torch.stack([maps[:, c].flatten(1).mean(1) for c in range(10)], 1)
    expected = -torch.stack([logits[i].log_softmax(0)[label] for i, label in enumerate(labels)]).mean()
    with trained.session():
        assert trained.train_step(images, labels)["loss"] == pytest.approx(float(expected), rel=1e-12)


def test_reading_the_maps_changes_nothing_of_the_logits() -> None:
    model = small_vit()
    logits, maps = SemanticReadout(model, describe(model), True).double()(images_for(model))
    assert torch.equal(logits, model(images_for(model)))
    assert maps.shape == (3, 10, 6, 6)


def test_a_frozen_backbone_stays_as_it_was_and_a_fine_tuned_one_does_not() -> None:
    pixels, labels = pictures()
    for backbone in ("frozen", "fine-tuned"):
        model = small_vit().float()
        before = copy.deepcopy(model.state_dict())
        trained = training(model, backbone=backbone)
        convolution = trained.readout.semantic.weight.detach().clone()
        with trained.session():
            trained.train_step(trained.normalize(pixels), labels)
        same = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
        assert not torch.equal(trained.readout.semantic.weight, convolution)
        # Of its own classifier and of what only the class token of the last block goes through, none is trained.
        assert same == set(before) if backbone == "frozen" else same == {"head.weight", "head.bias"}
        stored = set(trained.tensors()) - {"semantic.weight", "semantic.bias"}
        assert stored == (set() if backbone == "frozen" else {f"model.{name}" for name in before})


def test_the_initial_weights_depend_on_the_seed_alone() -> None:
    models = [small_vit().float() for _ in range(3)]
    weights = [
        TSCAMTraining(describe_loaded("small", model), TSCAMSettings(), 10, seed).readout.semantic.weight
        for model, seed in zip(models, (0, 0, 1), strict=True)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("backbone", ["frozen", "fine-tuned"])
def test_six_pictures_are_learnt_by_heart(backbone: str) -> None:
    trained = training(small_vit().float(), steps=40, backbone=backbone, learning_rate=3e-3)
    pixels, labels = pictures()
    images = trained.normalize(pixels)
    with trained.session():
        reached = [trained.train_step(images, labels) for _ in range(40)]
    assert reached[0]["loss"] > 1
    assert reached[-1]["loss"] < 0.2
    assert reached[-1]["accuracy"] == 1


def test_held_out_accuracy_is_that_of_both_classifiers() -> None:
    model = small_vit().float()
    trained, (pixels, labels) = training(model), pictures()
    samples = tuple(DecodedSample(0, "", None, int(label), None, SampleStatus.OK, None) for label in labels)
    parts = slice(4), slice(4, 6)  # of unequal size: means are over images, not over batches
    reached = trained.evaluate(TrainingBatch(0, "a", samples[part], pixels[part]) for part in parts)
    with torch.no_grad():
        network, maps = trained.readout(trained.normalize(pixels))
    assert reached["network_accuracy"] == pytest.approx(float((network.argmax(1) == labels).float().mean()))
    assert reached["accuracy"] == pytest.approx(float((maps.mean((2, 3)).argmax(1) == labels).float().mean()))
    assert reached["ce"] == pytest.approx(float(F.cross_entropy(maps.mean((2, 3)), labels)), rel=1e-5)
    assert trained.evaluate([]) == {}


def test_it_warns_where_it_classifies_worse_than_the_network() -> None:
    trained = training(small_vit())
    assert trained.warnings({"accuracy": 0.9, "network_accuracy_before": 0.9}) == []
    (said,) = trained.warnings({"accuracy": 0.85, "network_accuracy_before": 0.9})
    assert said == (
        "TS-CAM classifies held-out images worse than the network before: accuracy 0.8500, 0.9000; train for more steps"
    )


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    model = small_vit().float()
    trained, (pixels, labels) = training(model), pictures()
    before = copy.deepcopy(trained.readout.state_dict())
    with trained.session(), pytest.raises(FloatingPointError, match="the loss of step 0 is nan"):
        trained.train_step(trained.normalize(pixels) * float("nan"), labels)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.readout.state_dict().items())
