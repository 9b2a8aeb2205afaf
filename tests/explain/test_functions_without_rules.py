"""Networks that call a function without a relevance rule, or hide from the rules what they do, are refused."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from some_networks import random_images, without_constants
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.explain import UnsupportedMethod, describe, explain
from pipeline.explain.network import Requirement
from pipeline.explain.uncompiled import uncompiled

TARGETS = torch.tensor([[1], [2]])


class Small(nn.Module):
    """A convolution, a function, and a classifier of the mean."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.middle, self.fc = nn.Conv2d(3, 6, 4, 4), Middle(function), nn.Linear(6, 5)

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute [B, 6, h, w]."""
        return self.middle(self.conv(images))

    def forward_head(self, features: Tensor) -> Tensor:
        """Compute logits."""
        return self.fc(features.mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits."""
        return self.forward_head(self.forward_features(images))


class Middle(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Call it."""
        return self.function(x)


def unseen(x: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():  # as compiled code runs
        return 2 * x


def written_into(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :3] = x[:, 3:]
    return y


def used_after_it_was_overwritten(x: Tensor) -> Tensor:
    rows = x[:, :, 0]
    x += 1
    return x + rows[:, :, None]


def added_to_a_constant(x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    total.add_(x)
    return x + total


def compared_after_it_was_overwritten(x: Tensor) -> Tensor:
    y = x + 1
    y.sub_(1)
    return x.masked_fill(y > 0, 0)


def read_as_numbers(x: Tensor) -> Tensor:
    return x + torch.tensor(x.tolist(), dtype=x.dtype)


def with_other_numbers(x: Tensor) -> Tensor:
    y = 2 * x
    y.data = torch.ones_like(y)
    return y


def copied(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x + x.new_tensor(x)


def padded_at_one_side(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return F.conv2d(x, x.new_ones(6, 6, 2, 2), padding="same")


def with_own_statistics(x: Tensor) -> Tensor:
    zeros = torch.zeros_like(x[0, :, 0, 0])
    return F.batch_norm(x, zeros, zeros + 1, bias=x.mean((0, 2, 3)))


def with_a_hook(x: Tensor) -> Tensor:
    x.register_hook(lambda gradient: 2 * gradient)
    return x


CONSTANT = torch.ones(8, dtype=torch.float64)


def times_a_tensor_of_its_own(x: Tensor) -> Tensor:
    return x * CONSTANT.to(x.device).requires_grad_()


def without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x + 1


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (torch.exp, "calls exp"),
        (lambda x: x.norm(dim=1, keepdim=True) * x, "calls norm"),
        (lambda x: 1 / (1 + x.relu()), "calls"),
        (lambda x: x + x.detach(), "calls detach without a gradient"),
        (without_gradient, "calls add without a gradient"),
        (unseen, "runs code that is no function of torch"),
        (written_into, "calls __setitem__"),
        (lambda x: x.clamp_(0, 1), "calls clamp_"),
        (used_after_it_was_overwritten, "uses a tensor that it has overwritten"),
        (added_to_a_constant, "uses a tensor that it has overwritten"),
        (compared_after_it_was_overwritten, "uses a tensor that it has overwritten"),
        (read_as_numbers, "calls tolist"),
        (lambda x: x * float(x.numpy(force=True).max()), "calls numpy"),
        (with_a_hook, "calls register_hook"),
        (times_a_tensor_of_its_own, "uses a tensor with a gradient that is no parameter of it"),
        (lambda x: F.dropout(x, 0.5), "calls dropout in training mode"),
        (lambda x: F.scaled_dot_product_attention(x, x, x, None, 0.5), "attention with dropout"),
        (lambda x: x + torch.rand_like(x), "calls rand_like"),
        (lambda x: x + x.data, "calls data"),
        (with_other_numbers, "calls data"),
        (copied, "calls new_tensor without a gradient"),
        (lambda x: x**2, "calls pow, which has no relevance rule"),
        (lambda x: F.conv2d(input=x, weight=x.new_ones(6, 6, 1, 1)), "(TypeError: _convolution() got an unexpected"),
        (padded_at_one_side, "calls a convolution that pads one side more than the other"),
        (lambda x: x + x.sigmoid(), "calls add of weights of attention or of a gate as if they were values"),
        (lambda x: F.scaled_dot_product_attention(x, x, x.sigmoid()), "calls scaled_dot_product_attention of weights"),
        (lambda x: F.layer_norm(x.softmax(-1), (8,)), "calls layer_norm of weights of attention"),
        (lambda x: F.layer_norm(x, (8,), bias=x.mean((0, 1, 2))), "calls layer_norm with weights that depend"),
        (lambda x: F.rms_norm(x, (8,), x.mean((0, 1, 2))), "calls rms_norm with weights that depend on the image"),
        (lambda x: F.group_norm(x, 2, x.mean((0, 2, 3))), "calls group_norm with weights that depend on the image"),
        (with_own_statistics, "calls batch_norm with weights that depend on the image"),
        (lambda x: F.prelu(x, x.mean((0, 2, 3))), "calls prelu with weights that depend on the image"),
        (lambda x: F.linear(x, x.new_ones(8, 8), x.mean((0, 1, 2))), "calls linear with weights that depend"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch_norm with statistics of the batch"),
        (lambda x: F.conv2d(x, x.mean((0, 2, 3)).expand(6, 6)[..., None, None]), "weights that depend on the image"),
        (lambda x: torch.einsum("bchw,bchw,bchw->bchw", x, x, x), "einsum of more than two tensors"),
    ],
)
def test_a_network_with_an_operation_without_a_rule_is_refused_by_its_name(
    function: Callable[[Tensor], Tensor], reason: str
) -> None:
    model = Small(function).double()
    described = describe(model, (32, 32))
    where = "the network " if function is unseen else "middle (Middle) "  # seen by whoever takes its result
    assert described.missing[Requirement.LAYERS].startswith(where)
    assert reason in described.missing[Requirement.LAYERS]
    with pytest.raises(UnsupportedMethod, match=r"rules for every layer: (middle|the network)"):
        explain(model, random_images(size=(32, 32)), TARGETS, "cp_lrp:read=pixels")
    maps = explain(model, random_images(size=(32, 32)), TARGETS, ["grad_input", "gradcam"])
    assert all(each.isfinite().all() for each in maps.values())


def test_a_gate_may_overwrite_what_it_multiplies() -> None:
    described = describe(Small(lambda x: (x * 1).mul_(x.sigmoid())), (32, 32))
    assert Requirement.LAYERS not in described.missing


def test_relevance_of_compiled_code_is_that_of_the_code() -> None:
    def function(x: Tensor) -> Tensor:
        return F.silu(x) * x.sigmoid()

    maps = []
    for middle in (function, torch.compile(function, backend="eager")):
        torch.manual_seed(0)
        maps.append(explain(Small(middle).double(), random_images(size=(32, 32)), TARGETS, "cp_lrp:read=pixels"))
    assert torch.equal(maps[0]["cp_lrp_pixels"], maps[1]["cp_lrp_pixels"])


def test_code_is_compiled_again_when_the_last_thread_has_left() -> None:
    runs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        runs.append(1)
        return graph.forward

    compiled = torch.compile(lambda x: 2 * x, backend=backend)
    first, second = uncompiled(), uncompiled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    compiled(torch.ones(2))
    assert not runs
    second.__exit__(None, None, None)
    compiled(torch.ones(2))
    assert runs == [1]


def test_a_network_that_recomputes_activations_itself_is_refused() -> None:
    def function(x: Tensor) -> Tensor:
        return checkpoint(lambda x: F.silu(x) * x, x, use_reentrant=False)

    missing = describe(Small(function).double(), (32, 32)).missing[Requirement.LAYERS]
    assert "switch off activation checkpointing" in missing


def test_a_network_of_functions_with_rules_needs_no_class_to_be_known() -> None:
    model = without_constants(Small(lambda x: F.hardswish(F.group_norm(F.max_pool2d(x, 2), 2)) * x.mean((2, 3), True)))
    images = random_images(size=(32, 32))
    maps = explain(model.double(), images, TARGETS, "cp_lrp:read=pixels")["cp_lrp_pixels"]
    logits = model(images).gather(1, TARGETS)
    assert torch.allclose(maps.sum((2, 3)), logits, rtol=1e-9)


class Doubled(Small):
    """One that overwrites its logits."""

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits."""
        logits = super().forward(images)
        logits.mul_(2)
        return logits


def test_a_network_that_overwrites_its_logits_is_refused() -> None:
    described = describe(Doubled(F.relu), (32, 32))
    assert described.missing[Requirement.LAYERS] == "its logits are a tensor that it has overwritten"


@pytest.mark.parametrize("function", [nn.Softmax(1), nn.Sigmoid()])
def test_a_network_that_returns_probabilities_is_refused(function: nn.Module) -> None:
    described = describe(nn.Sequential(nn.Conv2d(3, 6, 16, 16), nn.Flatten(), nn.Linear(24, 5), function), (32, 32))
    assert "takes all relevance" in described.missing[Requirement.LAYERS]
