"""Linear layers as convolutions: the same values and gradients, and what is left to torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.metrics.linear_as_convolution import LinearAsConvolution


def inputs(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return tuple(torch.randn(size, generator=rng, dtype=dtype) for size in (shape, (7, shape[-1]), (7,)))  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(16, 64, 5), (2, 8, 16, 5), (512, 5), (3, 256, 5)])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_those_of_float64_up_to_rounding(shape: tuple[int, ...], biased: bool) -> None:
    tokens, weight, bias = inputs(*shape)
    tokens.requires_grad_()
    exact = tokens.detach().double().requires_grad_()
    expected = F.linear(exact, weight.double(), bias.double() if biased else None)
    with LinearAsConvolution():
        output = F.linear(tokens, weight, bias if biased else None)
        (gradient,) = torch.autograd.grad(output.sin().sum(), tokens)
    assert output.shape == expected.shape
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=3e-6)
    (expected_gradient,) = torch.autograd.grad(expected.sin().sum(), exact)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=0, atol=3e-5)


def test_inputs_that_are_not_contiguous_have_the_same_values() -> None:
    tokens, weight, bias = inputs(16, 5, 64)
    with LinearAsConvolution():
        output = F.linear(tokens.mT, weight[:, :1].expand(7, 5), bias)
    torch.testing.assert_close(output, F.linear(tokens.mT, weight[:, :1].expand(7, 5), bias), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "convolutions"),
    [
        ((16, 64, 5), torch.float32, 1),
        ((3, 100, 5), torch.float32, 0),  # 300 rows are not 16 images
        ((4, 16, 5), torch.float32, 0),  # too few
        ((0, 64, 5), torch.float32, 0),
        ((16, 64, 5), torch.float64, 0),
        ((16, 64, 5), torch.bfloat16, 0),
    ],
)
def test_only_large_inputs_of_float32_are_convolved(
    shape: tuple[int, ...], dtype: torch.dtype, convolutions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, convolve = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *args: calls.append(args) or convolve(*args))
    tokens, weight, bias = inputs(*shape, dtype=dtype)
    with LinearAsConvolution():
        output = F.linear(tokens, weight, bias)
    assert len(calls) == convolutions
    if not convolutions:
        assert torch.equal(output, F.linear(tokens, weight, bias))


def test_autocast_decides_the_dtype() -> None:
    tokens, weight, bias = inputs(16, 64, 5)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.linear(tokens, weight, bias)
        with LinearAsConvolution():
            assert torch.equal(F.linear(tokens, weight, bias), expected)


def test_modules_are_reached_and_the_context_ends() -> None:
    layer, tokens = nn.Linear(5, 7), torch.randn(16, 64, 5)
    before = layer(tokens)
    with LinearAsConvolution():
        inside = layer(tokens)
    torch.testing.assert_close(inside, before, rtol=0, atol=1e-5)
    assert torch.equal(layer(tokens), before)
