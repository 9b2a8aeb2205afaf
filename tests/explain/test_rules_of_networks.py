"""Relevance through networks that are no plain vision transformers: what it sums to, and which networks have rules."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from some_networks import CLASSES, NAMES, random_images, randomize, small_network
from support import soak_after
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint
from written_out_rules import WrittenRules, written_rules

from pipeline.explain import UnsupportedMethod, describe, explain
from pipeline.explain.method_table import method_rows
from pipeline.explain.network import Requirement
from pipeline.explain.relevance_rules import ATTN_LRP, LIBRA, Rules, RuleState
from pipeline.explain.rule_mode import RuleMode

TARGETS = torch.tensor([[1], [2]])
GAMMA = Rules(gamma=0.25, convolution_gamma=0.25)

LARGE = ("mobilevitv2_050", "efficientvit_b0", "maxvit_tiny_tf_224", "mobilevit_xxs")
"""Networks of timm that are not made smaller."""


def network(name: str) -> Any:
    if name not in LARGE:
        return small_network(name)
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES, **({"img_size": 64} if "maxvit" in name else {}))
    randomize(model)
    model.pretrained_cfg = model.pretrained_cfg | {"input_size": (3, 64, 64)}
    return model.double().eval()


def without_constants(model: nn.Module) -> nn.Module:
    """Set to 0 what is added to activations, and could take relevance away."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("bias", "running_mean", "pos_embed", "cls_token", "beta")):
            tensor.data.zero_()
    return model


NO_RULE = {"MViT": "stages.0.blocks.0.attn (MultiScaleAttention) calls __setitem__"}
FIRST = ("swin_tiny_patch4_window7_224", "resnet18", "cait_xxs24_224", "VGG with a mean", "Mixer")
CONSERVING = (*FIRST, *(name for name in (*NAMES, *LARGE) if name not in (*FIRST, *NO_RULE)))


@pytest.mark.parametrize("name", soak_after(len(FIRST), CONSERVING))
def test_relevance_of_the_pixels_sums_to_the_logit_of_a_network_without_biases(name: str) -> None:
    model, images = without_constants(network(name)), random_images()
    if name == "xcit_nano_12_p16_224":  # adds positions that it computes
        model.pos_embed = None
    elif name == "hiera_tiny_224":
        model.pos_embed.data.zero_()
    specs = ["cp_lrp:read=pixels", "cp_lrp:read=pixels:gamma=0.25:linear_gamma=0.1"]
    with torch.no_grad():
        logits = model(images).gather(1, TARGETS)[:, 0]
    tolerance = 1e-5 if name == "efficientvit_b0" else 1e-9  # its attention computes in float32
    for spec, maps in explain(model, images, TARGETS, specs).items():
        assert torch.allclose(maps.sum((1, 2, 3)), logits, rtol=tolerance, atol=tolerance * float(maps.abs().max())), (
            spec
        )
        assert maps.abs().sum() > 0


@pytest.mark.parametrize(
    ("spec", "rules"),
    [
        ("cp_lrp:read=pixels", WrittenRules()),
        ("attn_lrp:read=pixels", WrittenRules(shares_attention=True)),
        (
            "attn_lrp:read=pixels:gamma=0.25",
            WrittenRules(shares_attention=True, gamma=0.25, embedding_gamma=0.25),
        ),
        (
            "cp_lrp:read=pixels:gamma=0.25:linear_gamma=0.1:gamma_in_attention=false",
            WrittenRules(gamma=0.1, embedding_gamma=0.25, gamma_in_attention=False),
        ),
    ],
)
def test_relevance_of_windowed_attention_is_that_of_the_written_out_rules(spec: str, rules: WrittenRules) -> None:
    model, images = small_network("swin_tiny_patch4_window7_224"), random_images()
    (maps,) = explain(model, images, TARGETS, spec).values()
    leaf = images.clone().requires_grad_()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True  # the written-out rules are those of one function
    with written_rules(model, rules):
        logits = model(leaf)
    (gradient,) = torch.autograd.grad(logits.gather(1, TARGETS).sum(), leaf)
    expected = (images * gradient).unflatten(3, (2, 32)).unflatten(2, (2, 32)).sum((1, 3, 5))
    assert torch.allclose(maps[:, 0], expected, rtol=1e-9, atol=1e-11 * float(expected.abs().max()))


def test_relevance_of_a_network_that_checkpoints_activations_is_the_same() -> None:
    images, spec = random_images(), "cp_lrp:read=pixels:gamma=0.25"
    model = small_network("swin_tiny_patch4_window7_224")
    (expected,) = explain(model, images, TARGETS, spec).values()
    model.set_grad_checkpointing(True)
    (maps,) = explain(model, images, TARGETS, spec).values()
    assert torch.equal(maps, expected)
    assert all(module.grad_checkpointing for module in model.layers)


def gradient(
    function: Callable[..., Tensor], inputs: list[Tensor], rules: Rules, model: nn.Module | None = None
) -> list[Tensor]:
    """Gradients by rules of the sum of a function's squares to its inputs."""
    leaves = [each.clone().requires_grad_() for each in inputs]
    state = RuleState(keeps_gamma=True)
    with RuleMode(state).on(model or nn.Identity()):
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
        (lambda x: F.conv2d(x, x.new_ones(6, 6, 1, 1), padding=0), "(TypeError: _linear() got an unexpected keyword"),
        (lambda x: F.conv2d(x, x.new_ones(6, 6, 1, 1), None, 1, "valid"), "calls conv2d with padding='valid'"),
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


@pytest.mark.parametrize("name", NO_RULE)
def test_the_reason_of_a_refusal_names_module_and_operation(name: str) -> None:
    assert NO_RULE[name] in describe(small_network(name)).missing[Requirement.LAYERS]


def test_options_that_a_network_cannot_follow_are_refused() -> None:
    with pytest.raises(UnsupportedMethod, match="no attention by a softmax"):
        explain(
            small_network("resnet18"),
            random_images(),
            TARGETS,
            "cp_lrp:read=pixels:gamma=0.25:gamma_in_attention=false",
        )
    rows = {row["method"]: row["applies"] for row in method_rows("swin_tiny_patch4_window7_224")}
    assert rows["cp_lrp"] == rows["attn_lrp"] == "yes, as read=pixels"
    assert rows["legrad"].startswith("it needs attention of every token")
