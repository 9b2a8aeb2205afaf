"""A network that has forgotten has other maps, and so has another class; noise moves a map as far as is said."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from some_batches import compute, make_batch
from some_networks import small_network
from support import FAMILIES, images_for, small_vit
from torch import nn

from pipeline.explain import describe, explain
from pipeline.metrics import explained_model
from pipeline.metrics.explained_model import randomize_parameters
from pipeline.metrics.noise_sensitivity import SIGMAS, NoiseSensitivity, gaussian_noise
from pipeline.metrics.parameter_randomization import (
    ParameterRandomization,
    measured_stages,
    parameter_groups,
    randomize_cascading,
)
from pipeline.metrics.random_logit import RandomLogit, sample_other_classes
from pipeline.metrics.similarity import abs_spearman

BLIND = ("center", "edges", "uniform", "random")


def test_every_parameter_is_forgotten_once(family: nn.Module) -> None:
    model, names = family, [name for names in parameter_groups(family).values() for name in names]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    order = list(parameter_groups(model))
    blocks = [f"block {index}" for index in reversed(range(describe(model).depth))]
    assert [name for name in order if name.startswith("block")] == blocks
    learned = any(name.startswith("head.") for name in names)  # texts are no parameters
    assert (order[0], order[-1]) == ("classifier" if learned else "readout", "embedding")


@pytest.mark.parametrize(
    ("name", "last", "first"),
    [
        ("resnet18", "fc.weight", "conv1.weight"),
        ("swin_tiny_patch4_window7_224", "head.fc.weight", "patch_embed.proj.weight"),
        ("cait_xxs24_224", "head.weight", "cls_token"),
        ("VGG with a mean", "fc.weight", "features.0.weight"),
    ],
)
def test_other_networks_forget_their_children_from_the_last(name: str, last: str, first: str) -> None:
    model = small_network(name)
    groups = parameter_groups(model)
    names = [each for names in groups.values() for each in names]
    assert sorted(names) == sorted(each for each, _ in model.named_parameters())
    assert last in groups["classifier"]
    assert first in groups["embedding"]
    blocks = [group for group in groups if group.startswith("block ")]
    assert blocks == [f"block {index}" for index in reversed(range(len(blocks)))]
    assert measured_stages(model, 2)[0] == "classifier"
    declared = [each for each, _ in model.named_parameters() if "." in each]
    firsts = [declared.index(next(each for each in groups[group] if "." in each)) for group in groups]
    assert firsts == sorted(firsts, reverse=True)


@pytest.mark.parametrize("kind", ["registers", "layer scale", "attention pool"])
def test_forgetting_changes_group_after_group_and_bare_parameters_too(kind: str) -> None:
    model = small_vit(**FAMILIES[kind])
    there, left = parameter_groups(model), {name: value.detach().clone() for name, value in model.named_parameters()}
    learned = {name for name, value in left.items() if value.max() > value.min()}
    forgotten: set[str] = set()
    for group in randomize_cascading(model, randomize_parameters(model, 0)):
        forgotten |= learned & set(there[group])
        now = dict(model.named_parameters())
        assert {name for name in left if not torch.equal(left[name], now[name])} == forgotten
    assert {"registers": "reg_token", "layer scale": "blocks.0.ls1.gamma", "attention pool": "attn_pool.latent"}[
        kind
    ] in forgotten
    for name in learned:
        if left[name].numel() > 1000:
            assert float(now[name].detach().std()) == pytest.approx(float(left[name].std()), rel=0.1)


def test_mprt_of_a_method_that_ignores_the_model_is_1() -> None:
    found = compute(ParameterRandomization(samples=2), make_batch(small_vit(), (*BLIND, "legrad")))
    for method in BLIND:
        for figure in ("mprt", "smprt"):
            assert (found[method, figure] == 1).all(), (method, figure)
    assert (found["center", "emprt"] == 0).all()
    assert np.isnan(found["uniform", "emprt"]).all()
    assert (found["legrad", "mprt"] < 0.9).all()


@pytest.mark.parametrize(
    ("depth", "blocks", "expected"),
    [(12, 4, (9, 6, 3, 0)), (6, 4, (4, 3, 1, 0)), (3, 4, (2, 1, 0)), (12, 5, (9, 7, 4, 2, 0)), (5, 1, (0,))],
)
def test_stages_are_a_grid_over_the_depth_between_classifier_and_embedding(
    depth: int, blocks: int, expected: tuple[int, ...]
) -> None:
    stages = measured_stages(small_vit(depth=depth), blocks)
    assert stages == ("classifier", *(f"block {index}" for index in expected), "embedding")


def test_mprt_is_the_mean_of_the_maps_of_networks_that_are_randomized_down_to_each_stage() -> None:
    model = small_vit(depth=3)
    batch = make_batch(model, ("legrad",))
    found = compute(ParameterRandomization(samples=0, blocks=2), batch)
    randomized, values = randomize_parameters(model, batch.seed), []
    plain = explain(model, batch.images, torch.from_numpy(batch.class_ids), "legrad", keys=batch.keys)["legrad"]
    for beginnings in (("head.",), ("head.", "norm.", "blocks.2", "blocks.1"), ("head.", "norm.", "blocks"), ("",)):
        weights = {n: randomized[n] if n.startswith(beginnings) else value for n, value in model.state_dict().items()}
        network = small_vit(depth=3)
        network.load_state_dict(weights)
        maps = explain(network, batch.images, torch.from_numpy(batch.class_ids), "legrad", keys=batch.keys)["legrad"]
        values.append(abs_spearman(plain.numpy(), maps.numpy()))
    assert np.array_equal(found["legrad", "mprt"], np.mean(values, 0))


def test_a_network_is_randomized_once_for_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = []
    monkeypatch.setattr(
        explained_model, "randomize_parameters", lambda *args: sampled.append(args) or randomize_parameters(*args)
    )
    batch = make_batch(small_vit(), ("legrad",))
    first, second = (compute(ParameterRandomization(samples=0), replace(batch)) for _ in range(2))
    assert len(sampled) == 1
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_noise_does_not_move_a_map_of_the_place_alone_and_moves_others_the_more_the_stronger_it_is() -> None:
    batch = make_batch(small_vit(), (*BLIND, "legrad"))
    found = compute(NoiseSensitivity(), batch)
    for method in ("center", "uniform", "random"):
        assert all((found[method, figure] == 1).all() for figure in SIGMAS)
    weak, middle, strong = (found["legrad", figure].mean() for figure in SIGMAS)
    assert 1 > weak > middle > strong


def test_noise_is_of_the_range_of_the_image_and_of_its_source() -> None:
    images = images_for(small_vit()) * torch.tensor([1.0, 2, 3]).view(3, 1, 1, 1)
    found = gaussian_noise(images, [np.random.default_rng(seed) for seed in range(3)])
    spread = images.amax((1, 2, 3)) - images.amin((1, 2, 3))
    torch.testing.assert_close(found.std((1, 2, 3)), spread, rtol=0.03, atol=0)
    torch.testing.assert_close(found[2:], gaussian_noise(images[2:], [np.random.default_rng(2)]))


def test_random_logit_of_a_method_that_ignores_the_class_is_1() -> None:
    found = compute(RandomLogit(), make_batch(small_vit(), ("attention", "rollout", "legrad", *BLIND)))
    for method in ("attention", "rollout", *BLIND):
        assert (found[method, "random_logit"] == 1).all()
    assert (found["legrad", "random_logit"] < 1).all()


def test_the_other_class_is_another_and_any() -> None:
    keys = tuple(map(str, range(400)))
    targets = np.tile([[2, 2, 0]], (400, 1))
    others = sample_other_classes(targets, 4, keys, 0)
    assert (others != targets).all()
    assert (others[:, 0] == others[:, 1]).all()
    counts = np.bincount(others[:, 0], minlength=4)
    assert counts[2] == 0
    assert counts[[0, 1, 3]].min() > 100
