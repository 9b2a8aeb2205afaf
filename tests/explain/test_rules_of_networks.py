"""Relevance through networks that are no plain vision transformers: what it sums to, and which networks have rules."""

from typing import Any

import pytest
import timm
import torch
from some_networks import CLASSES, NAMES, random_images, randomize, small_network, without_constants
from support import soak_after
from torch import Tensor, nn
from written_out_rules import WrittenRules, written_rules

from pipeline.explain import UnsupportedMethod, describe, explain
from pipeline.explain.method_table import method_rows
from pipeline.explain.network import Requirement

TARGETS = torch.tensor([[1], [2]])

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


@pytest.mark.parametrize("name", NO_RULE)
def test_the_reason_of_a_refusal_names_module_and_operation(name: str) -> None:
    assert NO_RULE[name] in describe(small_network(name)).missing[Requirement.LAYERS]


class AttendingItself(nn.Module):
    """A network whose own forward computes attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 16, 16), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits."""
        tokens = self.conv(images).flatten(2).mT
        return self.fc(((tokens @ tokens.mT).softmax(-1) @ tokens).mean(1))


def test_options_that_a_network_cannot_follow_are_refused() -> None:
    with pytest.raises(UnsupportedMethod, match="it computes attention in its own forward"):
        explain(
            AttendingItself().double(), random_images(), TARGETS, "cp_lrp:read=pixels:gamma=1:gamma_in_attention=false"
        )
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
