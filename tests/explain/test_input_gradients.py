"""Methods that use the gradient to the image: against autograd, their sums, and linear networks."""

import pytest
import torch
from explicit import TARGET, assert_equal, compute_map
from support import FAMILIES, HEADS, images_for, small_vit, soak_after
from torch import Tensor, nn

from pipeline.explain import IntegratedGradients, SmoothGrad, describe, explain


def test_grad_input_is_summed_over_each_patch(family: nn.Module) -> None:
    images = images_for(family).requires_grad_()
    (gradient,) = torch.autograd.grad(family(images)[:, TARGET].sum(), images)
    rows, columns = describe(family).grid
    pieces = (images * gradient).detach().reshape(3, 3, rows, 8, columns, 8)
    assert_equal(family, images, "grad_input", pieces.sum((1, 3, 5)))


def missed(model: nn.Module, nodes: int) -> Tensor:
    """By how much integrated gradients do not sum to the difference from the grey image; the figure says so, too."""
    images = images_for(model)
    with torch.no_grad():
        difference = (model(images) - model(torch.zeros_like(images)))[:, TARGET]
    maps = explain(model, images, torch.full((3, 1), TARGET), IntegratedGradients(nodes=nodes))
    ((name, values),) = maps.items()
    shares = (values.sum((2, 3))[:, 0] - difference).abs() / difference.abs()
    assert torch.allclose(maps.extra_outputs[f"{name}_completeness"][:, 0], shares, rtol=1e-6, atol=1e-9)
    return shares.max()


def test_integrated_gradients_say_how_complete_they_are(family: nn.Module) -> None:
    assert missed(family, 2).isfinite()


@pytest.mark.parametrize("kind", soak_after(2, ["class token", "mean", "attention pool", "rotary", "SwiGLU"]))
def test_integrated_gradients_are_complete_with_many_nodes(kind: str) -> None:
    model = small_vit(**FAMILIES[kind])
    assert missed(model, 200) < min(0.02, missed(model, 2))


def test_integrated_gradients_of_a_linear_network_need_one_node() -> None:
    """Attention, norms and MLP silenced: the logit is linear in the image."""
    model = small_vit(class_token=False, global_pool="avg", fc_norm=False)
    model.norm = nn.Identity()
    for block in model.blocks:
        block.attn.proj.weight.data[:] = 0
        block.mlp.fc2.weight.data[:] = 0
    images = images_for(model)
    one, many = (compute_map(model, images, IntegratedGradients(nodes=nodes)) for nodes in (1, 20))
    assert torch.allclose(one, many, rtol=1e-12, atol=1e-14)
    assert torch.allclose(one, compute_map(model, images, "grad_input"), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["class token", *HEADS])
def test_smoothgrad_without_noise_is_the_size_of_the_gradient(kind: str) -> None:
    model = small_vit(**FAMILIES[kind])
    images = images_for(model).requires_grad_()
    (gradient,) = torch.autograd.grad(model(images)[:, TARGET].sum(), images)
    expected = gradient.abs().reshape(3, 3, 6, 8, 6, 8).sum((1, 3, 5))
    assert_equal(model, images, SmoothGrad(samples=2, noise=0.0), expected)


def test_smoothgrad_draws_by_key_class_and_seed_alone() -> None:
    model, method = small_vit(), SmoothGrad(samples=2)
    images = images_for(model, 2)

    def maps(targets: list[int], keys: list[str], seed: int = 0) -> Tensor:
        rows = torch.tensor(targets)[:, None]
        return explain(model, images, rows, method, keys=keys, seed=seed)[method.name]

    first = maps([1, 2], ["a", "b"])
    alone = explain(model, images[1:], torch.tensor([[2]]), method, keys=["b"])[method.name]
    assert torch.allclose(first[1], alone[0], rtol=1e-12, atol=0)
    assert not torch.allclose(first[1], maps([1, 2], ["a", "c"])[1])
    assert not torch.allclose(first, maps([1, 2], ["a", "b"], seed=1))
