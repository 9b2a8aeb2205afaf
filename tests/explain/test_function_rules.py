"""Relevance rules of functions of torch, one by one, and what a network may do to its activations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from some_networks import randomize
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.explain.relevance_rules import ATTN_LRP, LIBRA, Rules, RuleState
from pipeline.explain.rule_mode import RuleMode

GAMMA = Rules(gamma=0.25, convolution_gamma=0.25)


def gradient(function: Callable[..., Tensor], inputs: list[Tensor], rules: Rules) -> list[Tensor]:
    """Gradients by rules of a weighted sum of what a function returns, to its inputs."""
    leaves = [each.clone().requires_grad_() for each in inputs]
    state = RuleState(keeps_gamma=True)
    with RuleMode(state).on(nn.Identity()):
        output = function(*leaves)
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    with state.by(rules):
        return list(torch.autograd.grad((output * weights).sum(), leaves, materialize_grads=True))


@pytest.mark.parametrize("rules", [LIBRA, ATTN_LRP], ids=["constant", "shared"])
def test_attention_in_steps_has_the_relevance_of_fused_attention(rules: Rules) -> None:
    random = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 3, 5, 4, generator=random, dtype=torch.float64) for _ in range(3)]

    def in_steps(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = F.dropout((q * 0.5) @ k.transpose(-2, -1), 0.5, False).softmax(-1)
        return torch.einsum("bhnm,bhmd->bhnd", weights.reshape(2, 3, 5, 5), v)

    for stepwise, fused in zip(
        gradient(in_steps, parts, rules), gradient(F.scaled_dot_product_attention, parts, rules), strict=True
    ):
        assert torch.allclose(stepwise, fused, rtol=1e-12, atol=1e-14)


def test_gates_and_divisors_are_constants_and_other_products_share_by_halves() -> None:
    x, y = (torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    seed = torch.linspace(-1, 2, 12, dtype=torch.float64).view(3, 4)
    halves = gradient(lambda x, y: x * y, [x, y], LIBRA)
    assert torch.equal(halves[0], seed * y / 2)
    assert torch.equal(halves[1], seed * x / 2)
    gated = gradient(lambda x, y: x * y.sigmoid().expand_as(x), [x, y], LIBRA)
    assert torch.equal(gated[0], seed * y.sigmoid())
    assert not gated[1].any()
    divided = gradient(lambda x, y: x / (y * y + 1), [x, y], LIBRA)
    assert torch.equal(divided[0], seed / (y * y + 1))
    assert not divided[1].any()


def test_a_product_of_gates_or_of_weights_of_attention_is_one_again() -> None:
    random = torch.Generator().manual_seed(0)
    x, y, v = (torch.randn(2, 4, 4, dtype=torch.float64, generator=random) for _ in range(3))

    def of_gates(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return (x.sigmoid() * y.sigmoid()) * v

    def of_weights(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return torch.einsum("bij,bjk->bik", x.softmax(-1), y.softmax(-1)) @ v

    def of_both(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return (x.softmax(-1) * y.sigmoid()) @ v

    for function, share in ((of_gates, 1.0), (of_weights, 0.5), (of_both, 0.5)):
        (ordinary,) = gradient(lambda v, function=function: function(x, y, v), [v], LIBRA)
        constant = gradient(function, [x, y, v], LIBRA)
        assert torch.equal(constant[2], ordinary)
        assert not constant[0].any() | constant[1].any()
        assert torch.allclose(gradient(function, [x, y, v], ATTN_LRP)[2], share * ordinary, rtol=1e-12)


def conv_and_norm() -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(6)
    randomize(norm)
    norm.weight.data[2] *= -1
    return tuple(module.double().eval().requires_grad_(False) for module in (conv, norm))  # type: ignore[return-value]


def test_a_convolution_and_its_batch_norm_are_one_layer_for_gamma() -> None:
    conv, norm = conv_and_norm()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (found,) = gradient(lambda x: norm(conv(x)), [x], GAMMA)
    (fused,) = gradient(fuse_conv_bn_eval(conv, norm), [x], GAMMA)
    assert torch.allclose(found, fused, rtol=1e-12, atol=1e-13)
    (ordinary,) = gradient(lambda x: norm(conv(x)), [x], LIBRA)
    assert not torch.allclose(found, ordinary, rtol=0.05)


def test_a_convolution_whose_output_goes_elsewhere_too_is_a_layer_of_its_own() -> None:
    conv, norm = conv_and_norm()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def shared(x: Tensor) -> Tensor:
        features = conv(x)
        return norm(features) + features

    def apart(x: Tensor) -> Tensor:
        features = conv(x).clone()  # a batch norm does not see the convolution
        return norm(features) + features

    (found,), (expected,) = gradient(shared, [x], GAMMA), gradient(apart, [x], GAMMA)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_a_convolution_of_a_sequence_is_that_of_an_image_of_one_row() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 2, 3, dtype=torch.float64, generator=random)
    x = torch.randn(2, 4, 9, dtype=torch.float64, generator=random)
    bias = torch.randn(6, dtype=torch.float64, generator=random)
    (row,) = gradient(lambda x: F.conv1d(x, weight, bias, 2, 1, 1, 2), [x], GAMMA)
    (image,) = gradient(lambda x: F.conv2d(x, weight[:, :, None], bias, (1, 2), (0, 1), 1, 2), [x[:, :, None]], GAMMA)
    assert torch.allclose(row, image[:, :, 0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "padding"), [("same", (2, 1)), ("valid", 0)])
def test_a_named_padding_is_that_of_its_numbers(name: str, padding: Any) -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, 5, 2, dtype=torch.float64, generator=random)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=random)
    (named,) = gradient(lambda x: F.conv2d(x, weight, padding=name, dilation=(1, 2)), [x], GAMMA)
    (numbers,) = gradient(lambda x: F.conv2d(x, weight, None, 1, padding, (1, 2)), [x], GAMMA)
    assert torch.equal(named, numbers)


def test_what_overwrites_its_input_has_the_relevance_of_what_does_not() -> None:
    def overwriting(x: Tensor) -> Tensor:
        y = F.silu(F.conv2d(x, weight), inplace=True)
        y *= y.mean((2, 3), True).sigmoid_()
        y += F.relu(x[:, :2, 1:-1, 1:-1] * 2, inplace=True)
        return y.mul_(3).div_(2)

    def plain(x: Tensor) -> Tensor:
        y = F.silu(F.conv2d(x, weight))
        return (y * y.mean((2, 3), True).sigmoid() + F.relu(x[:, :2, 1:-1, 1:-1] * 2)) * 3 / 2

    random = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, 3, 3, dtype=torch.float64, generator=random)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=random)
    assert torch.equal(gradient(overwriting, [x], GAMMA)[0], gradient(plain, [x], GAMMA)[0])
