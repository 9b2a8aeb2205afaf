"""What must hold of every method on every kind of network, in float64."""

import copy

import pytest
import torch
from support import FAMILIES, SHORT, images_for, small_vit
from torch import nn

from pipeline.explain import describe, explain, methods
from pipeline.explain.method import Method

VARIANTS = (
    "legrad:layers=last2",
    "legrad:score=cosine",
    "reciprocam:kernel=peak",
    "reciprocam:kernel=box",
    "reciprocam:kernel=single",
    "reciprocam:score=logit",
    "reciprocam:authors_code",
    "agcam:full_gradient=true",
)
ALL = [*(SHORT.get(name, name) for name in methods), *VARIANTS]
TARGETS = torch.tensor([[1, 4], [2, 2], [0, 9]])


def by_class(name: str) -> bool:
    return methods[name.partition(":")[0]].by_class


def applicable(model: nn.Module, names: list[str]) -> list[str]:
    return [name for name in names if not methods.parse(name).unsupported(describe(model))]


def one(model: nn.Module, images: torch.Tensor, targets: torch.Tensor, name: str, **options) -> torch.Tensor:
    if reason := methods.parse(name).unsupported(describe(model)):
        pytest.skip(reason)
    ((_, maps),) = explain(model, images, targets, [name], **options).items()
    return maps


@pytest.mark.parametrize("name", ALL)
def test_a_map_has_the_shape_of_the_grid_and_is_finite(family: nn.Module, name: str) -> None:
    maps = one(family, images_for(family), TARGETS, name)
    assert maps.shape == (3, 2, *describe(family).grid)
    assert maps.dtype == torch.float64
    assert maps.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_a_map_does_not_depend_on_its_batch(family: nn.Module, name: str) -> None:
    images, order = images_for(family), torch.tensor([2, 0, 1])
    together = one(family, images, TARGETS, name)
    alone = torch.cat([one(family, images[i : i + 1], TARGETS[i : i + 1], name) for i in range(3)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)
    assert torch.allclose(together[order], one(family, images[order], TARGETS[order], name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_only_maps_by_class_depend_on_the_class(family: nn.Module, name: str) -> None:
    first, second = one(family, images_for(family, 1), torch.tensor([[3, 7]]), name)[0]
    assert torch.equal(first, second) != by_class(name)


@pytest.mark.parametrize("name", ALL)
def test_a_repeated_target_gives_the_same_map(family: nn.Module, name: str) -> None:
    images = images_for(family)
    maps = one(family, images, torch.tensor([[1, 4, 1], [2, 2, 5], [0, 9, 9]]), name)
    assert torch.equal(maps[0, 0], maps[0, 2])
    assert torch.equal(maps[1, 0], maps[1, 1])
    assert torch.equal(maps[2, 1], maps[2, 2])
    for column in range(3):
        targets = torch.tensor([[1, 4, 1], [2, 2, 5], [0, 9, 9]])[:, column : column + 1]
        assert torch.allclose(maps[:, column], one(family, images, targets, name)[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in ALL if "logit" not in name and not name.startswith("pm")])
def test_a_constant_added_to_all_logits_changes_nothing(family: nn.Module, name: str) -> None:
    shifted = copy.deepcopy(family)
    for head in ("head", "head_dist"):
        if hasattr(shifted, head):
            getattr(shifted, head).bias.data += 3.0
    images = images_for(family)
    before, after = one(family, images, TARGETS, name), one(shifted, images, TARGETS, name)
    assert torch.allclose(before, after, rtol=0, atol=1e-12)


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
            explain(model, images_for(model), TARGETS, names)
    else:
        explain(model, images_for(model), TARGETS, names)
    assert_same_state(before, state(model))


def _broken(*_: object) -> None:
    raise ZeroDivisionError


def test_all_methods_together_equal_each_alone(family: nn.Module) -> None:
    names = applicable(family, ALL)
    together = explain(family, images_for(family), TARGETS, names)
    for name in names:
        alone = one(family, images_for(family), TARGETS, name)
        assert torch.equal(together[methods.parse(name).name], alone), name


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(context) -> None:
    model = small_vit()
    expected = one(model, images_for(model), TARGETS, "legrad")
    with context():
        assert torch.equal(one(model, images_for(model), TARGETS, "legrad"), expected)


@pytest.mark.parametrize("name", ["attention", "rollout", "legrad", "legrad:layers=last2", "reciprocam:kernel=single"])
def test_patches_that_change_places_take_their_values_along(name: str) -> None:
    """With no position embedding, and a method that looks at one patch at a time."""
    model = small_vit()
    model.pos_embed.data[:] = 0
    images, targets = images_for(model, 1), torch.tensor([[1]])
    expected = one(model, images, targets, name).roll((1, 2), (2, 3))
    assert torch.allclose(one(model, images.roll((8, 16), (2, 3)), targets, name), expected, rtol=0, atol=1e-12)


def test_methods_are_values_that_name_and_spell_themselves() -> None:
    for name in ALL:
        method = methods.parse(name)
        assert isinstance(method, Method)
        assert methods.parse(method.text) == method
        assert hash(method) == hash(methods.parse(method.text))
    names = [methods.parse(name).name for name in ALL]
    assert len(set(names)) == len(names)


def test_every_kind_of_network_is_described_as_built() -> None:
    described = {name: describe(small_vit(**options)) for name, options in FAMILIES.items()}
    found = {name: (d.readout, d.prefix_tokens, d.read_tokens, d.grid) for name, d in described.items()}
    assert found == {
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
    }
