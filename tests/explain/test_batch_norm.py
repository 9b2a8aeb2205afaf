"""Gradients of batch norm on a CPU, where torch reads some of them in the wrong order."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from some_networks import random_images
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pipeline.explain import explain
from pipeline.explain.batch_norm import order_batch_norm_gradients


@pytest.mark.parametrize("shape", [(1, 5, 4, 6), (2, 5, 4, 6), (2, 5, 1, 6), (1, 5, 2, 3, 2)])
def test_batch_norm_has_its_gradient_whatever_the_order_of_memory(shape: tuple[int, ...]) -> None:
    """On a CPU torch reads gradients in the order of their memory where a side is 1, as of tokens of one image."""
    torch.manual_seed(0)
    values, gradient = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    scale, mean, variance = torch.rand(3, 5, dtype=torch.float64).add(0.5)
    expected = gradient * (scale / (variance + 1e-5).sqrt()).view(-1, *[1] * (len(shape) - 2))
    wrong = 0
    for of_input, of_gradient in itertools.product(_orders(values), _orders(gradient)):
        given = of_input.requires_grad_()
        normed = F.batch_norm(given, mean, variance, scale)
        wrong += not torch.allclose(torch.autograd.grad(normed, given, of_gradient, retain_graph=True)[0], expected)
        order_batch_norm_gradients(normed)
        assert torch.allclose(torch.autograd.grad(normed, given, of_gradient)[0], expected, rtol=1e-12)
    assert wrong or 1 not in shape, "torch reads all of them right: the order need not be set"


def _orders(x: Tensor) -> Iterator[Tensor]:
    """Yield a tensor with its sides in several orders in memory, and sides of 1 with a stride of their own."""
    for order in itertools.permutations(range(x.ndim)) if x.ndim == 4 else [(0, 1, 2, 3, 4), (0, 2, 3, 4, 1)]:
        permuted, back = x.permute(order).contiguous(), [order.index(side) for side in range(x.ndim)]
        yield permuted.permute(back)
        if 1 in x.shape:
            strides = [
                x.shape[1] if side == 1 else stride
                for side, stride in zip(permuted.shape, permuted.stride(), strict=True)
            ]
            yield permuted.as_strided(permuted.shape, strides).permute(back)


def test_a_batch_norm_behind_tokens_and_before_them_has_its_gradient() -> None:
    """One image whose tokens become a grid and tokens again."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8).double().eval()
    nn.init.uniform_(norm.weight, 0.5, 2)
    tokens, weights = torch.randn(1, 16, 8).double().requires_grad_(), torch.randn(16, 8).double()
    score = (norm(tokens.transpose(1, 2).unflatten(2, (4, 4))).flatten(2).transpose(1, 2) * weights).sum()
    order_batch_norm_gradients(score)
    expected = weights * norm.weight / (norm.running_var + norm.eps).sqrt()
    assert torch.allclose(torch.autograd.grad(score, tokens)[0], expected, rtol=1e-12, atol=0)


def test_image_gradients_pass_a_batch_norm_in_front_of_the_tokens_of_a_vision_transformer() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 48, 16, 16), nn.BatchNorm2d(48))
    model = VisionTransformer(
        img_size=64,
        patch_size=1,
        embed_dim=48,
        depth=2,
        num_heads=4,
        num_classes=5,
        embed_layer=partial(HybridEmbed, backbone=backbone, proj=False),
    )
    nn.init.uniform_(backbone[1].weight, 0.5, 2)
    images, targets = random_images(), torch.tensor([[0], [1]])
    maps = explain(model.double(), images, targets, "grad_input")["grad_input"]
    alone = explain(model, images[:1], targets[:1], "grad_input")["grad_input"]
    assert torch.allclose(alone, maps[:1], rtol=1e-9, atol=1e-12 * float(maps.abs().max()))


def test_batch_norm_takes_a_gradient_that_is_not_defined() -> None:
    """A function that does not depend on its input hands none on."""

    class Unused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Tensor) -> Tensor:
            return torch.ones_like(values)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> None:
            return None

    norm, images = nn.BatchNorm2d(3).eval(), torch.randn(2, 3, 4, 4, requires_grad=True)
    total = Unused.apply(norm(images)).sum() + images.sum()
    order_batch_norm_gradients(total)
    assert torch.equal(torch.autograd.grad(total, images)[0], torch.ones_like(images))
