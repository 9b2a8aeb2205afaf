"""Gates learn to keep as little as the prediction needs, and nothing else is touched."""

import copy
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from support import DEMO_MODEL, images_for, small_vit
from torch import nn

from pipeline.demo.synthetic_dataset import SyntheticDataset, write_dataset
from pipeline.explain.load import describe_loaded, load_model
from pipeline.explain.model_state import preserve_model_state
from pipeline.read import DecoderPool, PreprocessConfig, count_samples, expand_shards
from pipeline.train.diffmask_training import DiffMaskTraining, ascend_multiplier
from pipeline.train.image_stream import ImageStream
from schemas.training import DiffMaskSettings

QUICK = DiffMaskSettings(learning_rate=1e-2, placeholder_learning_rate=1e-2, gate_bias=3.0, warmup_steps=0)


@pytest.fixture
def model() -> Iterator[nn.Module]:
    network = small_vit()
    with preserve_model_state(network):
        yield network


def training(model: nn.Module, settings: DiffMaskSettings = QUICK, seed: int = 0) -> DiffMaskTraining:
    return DiffMaskTraining(describe_loaded("small", model), settings, seed)


@pytest.mark.parametrize(("divergence", "rises"), [(0.5, True), (0.11, True), (0.05, False), (0.0, False)])
def test_the_multiplier_rises_exactly_where_the_divergence_is_too_large(divergence: float, rises: bool) -> None:
    before = torch.tensor(20.0)
    after = ascend_multiplier(before, divergence, QUICK)
    assert (after > before) == rises
    assert after.item() == pytest.approx(20 + 3 * (divergence - 0.1))


@pytest.mark.parametrize("start", [0.5, 20.0, 200.0])
def test_the_multiplier_reaches_the_constraint_from_any_start(start: float) -> None:
    """Of a divergence that falls with the multiplier as 3 / α, so that ε = 0.1 is reached at α = 30."""
    alpha, settings = torch.tensor(start), DiffMaskSettings()
    for _ in range(1000):
        alpha = ascend_multiplier(alpha, 3 / float(alpha), settings)
    assert alpha.item() == pytest.approx(30, rel=0.1)


@pytest.mark.soak
def test_gates_of_the_demo_network_reach_the_constraint_with_few_patches(tmp_path: Path) -> None:
    world = SyntheticDataset(tmp_path, num_shards=4, scenes=64)
    write_dataset(world)
    loaded = load_model(DEMO_MODEL)
    frame = PreprocessConfig.for_model(loaded.record, "squash")
    shards = count_samples(expand_shards((world.shards,)))
    train, held_out = (ImageStream(part, frame, 16, None, 0) for part in (shards[:3], shards[3:]))
    trained = DiffMaskTraining(loaded, DiffMaskSettings(learning_rate=5e-4, warmup_steps=50))
    with trained.session(), DecoderPool(0) as decoders:
        for batch in islice(train.iter_batches(decoders), 400):
            trained.step(batch)
        reached = trained.evaluate(held_out.iter_epoch(decoders))
    assert reached["kl"] <= trained.settings.tolerance
    assert reached["kept"] < 0.2
    assert trained.warnings(reached) == []


def test_the_multiplier_stays_within_its_bounds() -> None:
    assert ascend_multiplier(torch.tensor(200.0), 9.0, QUICK).item() == 200
    assert ascend_multiplier(torch.tensor(0.01), 0.0, QUICK).item() == 0


def test_a_step_moves_the_multiplier_of_its_depth_alone(model: nn.Module) -> None:
    trained = training(model)
    before = trained.alpha.clone()
    figures = trained.train_step(images_for(model))
    moved = (trained.alpha != before).nonzero().flatten().tolist()
    assert moved == [figures["depth"]]
    assert (figures["alpha"] > 20) == (figures["kl"] > 0.1)


def test_the_network_is_not_touched(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    trained = training(model)
    gates = copy.deepcopy(trained.gates.state_dict())
    for _ in range(4):
        trained.train_step(images_for(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.equal(trained.gates.placeholder, gates["placeholder"])


def test_gates_close_where_nothing_is_asked_of_them(model: nn.Module) -> None:
    """With the divergence free of charge, only the number of patches is left to lower."""
    trained = training(model, DiffMaskSettings(learning_rate=5e-2, warmup_steps=0, alpha=0.0, alpha_learning_rate=0.0))
    kept = [trained.train_step(images_for(model))["kept"] for _ in range(60)]
    assert sum(kept[-10:]) < sum(kept[:10]) / 3


def test_training_that_is_resumed_equals_training_that_went_on(model: nn.Module) -> None:
    images = [images_for(model, seed=number) for number in range(6)]
    whole = training(model)
    for batch in images:
        whole.train_step(batch)
    first = training(model)
    for batch in images[:3]:
        first.train_step(batch)
    second = training(model, seed=0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for batch in images[3:]:
        second.train_step(batch)
    for name, tensor in whole.gates.state_dict().items():
        assert torch.equal(tensor, second.gates.state_dict()[name]), name
    assert torch.equal(whole.alpha, second.alpha)


def test_the_depth_is_the_same_on_every_rank_and_the_noise_is_not(model: nn.Module) -> None:
    trained = training(model)
    losses = {
        trained.compute_loss(images_for(model), None, trained.sample_depth(), rank)[1]["loss"] for rank in (0, 0, 1, 2)
    }
    assert len(losses) == 3


def test_a_depth_that_has_settled_is_drawn_less_often(model: nn.Module) -> None:
    trained = training(model, DiffMaskSettings(depth_sampling="weighted"))
    trained.average["agreement"][:2], trained.average["kept"][:2] = 0.9, 0.05
    trained.average["steps"][:] = 200
    trained.average["kept"][2:] = 0.5
    drawn = []
    for trained.step_count in range(2000):
        drawn.append(trained.sample_depth())
    often = [drawn.count(depth) for depth in range(len(trained.alpha))]
    assert all(0.05 < few / many < 0.2 for few in often[:2] for many in often[2:])


def test_the_averages_follow_each_depth(model: nn.Module) -> None:
    trained = training(model)
    seen: dict[int, float] = {}
    for _ in range(12):
        figures = trained.train_step(images_for(model))
        depth = figures["depth"]
        seen[depth] = 0.9 * seen[depth] + 0.1 * figures["kl"] if depth in seen else figures["kl"]
        assert trained.average["kl"][depth].item() == pytest.approx(seen[depth])
    assert figures["kl_average"] == pytest.approx(sum(seen.values()) / len(seen))


def test_a_loss_that_is_not_finite_is_said_and_changes_nothing(model: nn.Module) -> None:
    trained = training(model)
    before = copy.deepcopy(trained.gates.state_dict())
    with pytest.raises(FloatingPointError, match="the loss of step 0 is nan"):
        trained.train_step(images_for(model) * float("nan"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.gates.state_dict().items())
    assert trained.step_count == 0


@pytest.mark.parametrize("objective", ["distribution", "class"])
def test_divergence_is_zero_for_equal_predictions_and_positive_else(model: nn.Module, objective: str) -> None:
    trained = training(model, DiffMaskSettings(objective=objective))  # type: ignore[arg-type]
    torch.manual_seed(0)
    plain, masked = torch.randn(2, 50, 10, dtype=torch.float64) * 3
    targets = torch.randint(0, 10, (50,))
    assert trained.compute_divergence(plain, plain, targets).abs().max() < 1e-12
    found = trained.compute_divergence(plain, masked, targets)
    assert (found > 0).all()
    if objective == "class":
        p, q = (logits.softmax(-1).gather(1, targets[:, None])[:, 0] for logits in (plain, masked))
        expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    else:
        p, q = plain.softmax(-1), masked.softmax(-1)
        expected = (p * (p / q).log()).sum(-1)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_one_class_may_be_all_that_is_kept(model: nn.Module) -> None:
    trained = training(model, DiffMaskSettings(learning_rate=1e-2, warmup_steps=0, gate_bias=3.0, objective="class"))
    figures = trained.train_step(images_for(model), torch.tensor([1, 2, 3]))
    assert figures["kl"] >= 0


def test_gates_are_warned_of_by_what_they_reached(model: nn.Module) -> None:
    trained = training(model)  # the tolerance is 0.1
    assert trained.warnings({"kl": 0.1, "kl_shuffled": 0.2}) == []
    (alone,) = trained.warnings({"kl": 0.05, "kl_shuffled": 0.05})
    assert alone == "the masks preserve the prediction no better than shuffled: KL 0.050, 0.050 shuffled"
    (alone,) = trained.warnings({"kl": 0.11, "kl_shuffled": 0.2})
    assert alone == "the masks change the prediction more than allowed: KL 0.110, tolerance 0.1"
