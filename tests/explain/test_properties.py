"""Properties of every method on every model family, in float64."""

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from support import FAMILIES, SHORT, family_anatomies, images_for, small_vit
from torch import nn

from pipeline.explain import MapBatch, Method, describe, explain, methods

VARIANTS = (
    "legrad:layers=last2",
    "legrad:score=cosine",
    "reciprocam:kernel=peak",
    "reciprocam:kernel=box",
    "reciprocam:kernel=single",
    "reciprocam:score=logit",
    "reciprocam:authors_code",
    "agcam:full_gradient=true",
    "attn_lrp:read=pixels:gamma=0.25",
    "generic_attention:backward=libra",
    "legrad:backward=libra:target=contrast_max",
)
ALL = [*(SHORT.get(name, name) for name in methods), *VARIANTS]
TARGETS = ((1, 4), (2, 2), (0, 9))
"""Of three images, two each; the second image has the same class twice."""


def class_specific(name: str) -> bool:
    return methods[name.partition(":")[0]].class_specific


def applicable(model: nn.Module, names: list[str]) -> list[str]:
    return [name for name in names if not methods.parse(name).refusal(describe(model))]


def compute_map(model: nn.Module, images: torch.Tensor, targets: torch.Tensor, name: str) -> torch.Tensor:
    ((_, maps),) = explain(model, images, targets, [name]).items()
    return maps


Explained = Callable[..., MapBatch]


COMMON = (
    "class token",
    "layer scale",
    "mean",
    "attention pool",
    "distilled",
    "rotary, registers, mean",
    "relative bias",
    "texts, sigmoid",
    "class token and mean",
)
"""Families that differ most in what a method may look at."""


@pytest.fixture(
    scope="module", params=[name if name in COMMON else pytest.param(name, marks=pytest.mark.soak) for name in FAMILIES]
)
def family(request: pytest.FixtureRequest) -> nn.Module:
    """A network of each family."""
    return small_vit(**FAMILIES[request.param])


@pytest.fixture(scope="module")
def explained(family: nn.Module) -> Explained:
    """Maps of every method that is defined for a network, of the images of these numbers: one call, which is kept.

    That each of them is what it is alone, is shown by ``test_all_methods_together_equal_each_alone``.
    """
    images, names = images_for(family), applicable(family, ALL)

    @cache
    def maps(numbers: tuple[int, ...] = (0, 1, 2), targets: tuple[tuple[int, ...], ...] = TARGETS) -> MapBatch:
        return explain(family, images[list(numbers)], torch.tensor(targets), names)

    return maps


def test_all_methods_together_equal_each_alone(family: nn.Module, explained: Explained) -> None:
    together = explained((0,), TARGETS[:1])
    for name in applicable(family, ALL):
        alone = compute_map(family, images_for(family)[:1], torch.tensor(TARGETS[:1]), name)
        assert torch.equal(together[methods.parse(name).name], alone), name


def test_a_map_has_the_shape_of_the_grid_is_finite_and_says_something(family: nn.Module, explained: Explained) -> None:
    for name in applicable(family, ALL):
        maps = explained()[methods.parse(name).name]
        assert maps.shape == (3, 2, *describe(family).grid), name
        assert maps.dtype == torch.float64, name
        assert maps.isfinite().all(), name
        assert maps.flatten(2).std(2).any() == (name != "uniform"), name


def test_a_map_does_not_depend_on_its_batch(family: nn.Module, explained: Explained) -> None:
    for name in applicable(family, ALL):
        key = methods.parse(name).name
        alone = torch.cat([explained((number,), TARGETS[number : number + 1])[key] for number in range(3)])
        assert torch.allclose(explained()[key], alone, rtol=0, atol=1e-12), name


def test_only_maps_by_class_depend_on_the_class(family: nn.Module, explained: Explained) -> None:
    for name in applicable(family, ALL):
        first, second = explained()[methods.parse(name).name][0]
        assert torch.equal(first, second) != class_specific(name), name


def test_a_map_depends_on_no_other_class_and_a_class_that_comes_again_has_the_same(
    family: nn.Module, explained: Explained
) -> None:
    for name in applicable(family, ALL):
        key = methods.parse(name).name
        maps = explained(targets=((1, 4, 1), (2, 2, 5), (0, 9, 9)))[key]
        assert torch.equal(maps[0, 0], maps[0, 2]), name
        assert torch.equal(maps[1, 0], maps[1, 1]), name
        assert torch.equal(maps[2, 1], maps[2, 2]), name
        for targets, columns in (((1, 2, 9), (0, 1, 1)), ((4, 5, 0), (1, 2, 0))):
            alone = explained(targets=tuple((target,) for target in targets))[key]
            assert torch.allclose(maps[range(3), columns], alone[:, 0], rtol=0, atol=1e-12), name


def test_a_constant_added_to_all_logits_changes_nothing(family: nn.Module, explained: Explained) -> None:
    shifted = copy.deepcopy(family)
    for head in ("head", "head_dist"):
        if hasattr(shifted, head):
            getattr(shifted, head).bias.data += 3.0
    changing = (
        ("occlusion", "pm", "reciprocam", "rise", "tis", "vit_cx")
        if describe(family).class_activation == "sigmoid"
        else ("pm",)
    )
    of_parts = ("logit", "gamma")  # γ asks for the sign of a logit
    if describe(family).class_activation == "sigmoid":
        of_parts += ("softmax",)
    names = [
        name
        for name in applicable(family, ALL)
        if not name.startswith(changing) and not any(part in name for part in of_parts)
    ]
    after = explain(shifted, images_for(family), torch.tensor(TARGETS), names)
    for name, maps in after.items():
        assert torch.allclose(explained()[name], maps, rtol=0, atol=1e-12), name


def state(model: nn.Module) -> tuple[object, ...]:
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad for parameter in model.parameters()],
        [parameter.clone() for parameter in model.parameters()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        [getattr(module, "fused_attn", None) for module in model.modules()],
    )


def assert_same_state(before: tuple, after: tuple) -> None:
    for one_part, other in zip(before, after, strict=True):
        assert len(one_part) == len(other)
        for a, b in zip(one_part, other, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
def test_the_model_comes_back_as_it_was(family: nn.Module, raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(family).train()
    model.blocks[0].eval()
    next(model.parameters()).requires_grad_(False)
    model.blocks[1].attn.fused_attn = False
    before = state(model)
    names = applicable(model, ALL)
    if raises:
        monkeypatch.setattr(type(model.blocks[-1].mlp), "forward", _broken)
        with pytest.raises(ZeroDivisionError):
            explain(model, images_for(model), torch.tensor(TARGETS), names)
    else:
        explain(model, images_for(model), torch.tensor(TARGETS), names)
    assert_same_state(before, state(model))


def _broken(*_: object) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(context) -> None:
    model = small_vit()
    expected = compute_map(model, images_for(model), torch.tensor(TARGETS), "legrad")
    with context():
        assert torch.equal(compute_map(model, images_for(model), torch.tensor(TARGETS), "legrad"), expected)


@pytest.mark.parametrize("name", ["attention", "rollout", "legrad", "legrad:layers=last2", "reciprocam:kernel=single"])
def test_patches_that_change_places_take_their_values_along(name: str) -> None:
    """With no position embedding, and a method that looks at one patch at a time."""
    model = small_vit()
    model.pos_embed.data[:] = 0
    images, targets = images_for(model, 1), torch.tensor([[1]])
    expected = compute_map(model, images, targets, name).roll((1, 2), (2, 3))
    assert torch.allclose(compute_map(model, images.roll((8, 16), (2, 3)), targets, name), expected, rtol=0, atol=1e-12)


def test_methods_are_values_that_name_and_spell_themselves() -> None:
    for name in ALL:
        method = methods.parse(name)
        assert isinstance(method, Method)
        assert methods.parse(method.spec) == method
        assert hash(method) == hash(methods.parse(method.spec))
    names = [methods.parse(name).name for name in ALL]
    assert len(set(names)) == len(names)


def test_every_kind_of_network_is_described_as_built() -> None:
    computed = {name: (d.readout, d.prefix_tokens, d.read_tokens, d.grid) for name, d in family_anatomies().items()}
    assert computed == {
        "class token": ("token", 1, 1, (6, 6)),
        "registers": ("token", 4, 1, (6, 6)),
        "mean": ("mean", 0, 0, (6, 6)),
        "mean, fc_norm": ("mean", 0, 0, (6, 6)),
        "mean beside an idle class token": ("mean", 1, 0, (6, 6)),
        "attention pool": ("pool", 0, 0, (6, 6)),
        "layer scale": ("token", 1, 1, (6, 6)),
        "q/k norm": ("token", 1, 1, (6, 6)),
        "not square": ("token", 1, 1, (6, 4)),
        "norm in front": ("token", 1, 1, (6, 6)),
        "distilled": ("token", 2, 2, (6, 6)),
        "rotary": ("token", 1, 1, (6, 6)),
        "rotary, registers, mean": ("mean", 5, 0, (6, 6)),
        "rotary per block, not square": ("token", 1, 1, (6, 4)),
        "SwiGLU": ("mean", 1, 0, (6, 6)),
        "scaled SwiGLU": ("mean", 1, 0, (6, 6)),
        "attention pool, tanh": ("pool", 0, 0, (6, 6)),
        "quick GELU": ("token", 1, 1, (6, 6)),
        "relative bias": ("mean", 1, 0, (6, 6)),
        "relative positions": ("mean", 0, 0, (6, 6)),
        "RMS norm": ("mean", 1, 0, (6, 6)),
        "texts": ("token", 1, 1, (6, 6)),
        "texts, projected": ("pool", 0, 0, (6, 6)),
        "mean, sigmoid": ("mean", 4, 0, (6, 6)),
        "texts, sigmoid": ("pool", 0, 0, (6, 6)),
        "class token and mean": ("token+mean", 4, 0, (6, 6)),
        "test-time register": ("token", 1, 1, (6, 6)),
        "test-time register, mean": ("mean", 0, 0, (6, 6)),
        "test-time register, attention pool": ("pool", 0, 0, (6, 6)),
        "test-time register, gated": ("token+mean", 1, 0, (6, 6)),
    }
