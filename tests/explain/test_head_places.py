"""Heads on networks that read the mean of a feature grid: logits, class activation maps, and what is refused."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from some_networks import TIMM, random_images, small_network
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pipeline.explain import Head, describe, explain
from pipeline.explain.head import attached_head, backbone_hash
from pipeline.explain.weights_hash import weights_hash
from schemas.errors import UnsupportedMethod, UnsupportedModel
from schemas.head import HeadRecord

NETWORKS = ["resnet18", "swin_tiny_patch4_window7_224", "resnetv2_50", "convnext_atto"]
"""A mean of channels-first and of channels-last features, a convolution as classifier, and a norm behind the mean."""
TARGETS = torch.tensor([[0, 2], [1, 0]])


def head_for(width: int, **changes: Any) -> tuple[Head, Tensor, Tensor]:
    """A random linear head of three classes in float64, its weight and its bias."""
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(3, width, generator=random, dtype=torch.float64)
    bias = torch.randn(3, generator=random, dtype=torch.float64)
    values = {"kind": "linear", "classes": ("a", "b", "c"), "read_out": "mean", "input_width": width}
    return Head(HeadRecord(**values | changes), {"weight": weight, "bias": bias}), weight, bias


@torch.no_grad()
def grid_of(model: Any, images: Tensor) -> Tensor:
    """What the read-out gets: [B, h, w, D]."""
    features: Tensor = model.forward_features(images)
    return features if type(model).__name__ == "SwinTransformer" else features.permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_maps_are_those_of_the_head_on_the_mean(name: str) -> None:
    model, images = small_network(name), random_images()
    grid = grid_of(model, images)
    pooled = grid.mean((1, 2))
    if name == "convnext_atto":
        norm: Any = model.get_submodule("head.norm")
        pooled = F.layer_norm(pooled, pooled.shape[1:], norm.weight, norm.bias, norm.eps)
    before = backbone_hash(model)
    head, weight, bias = head_for(pooled.shape[1])
    assert head.attach(model) is model
    with torch.no_grad():
        assert (model(images) - (pooled @ weight.T + bias)).abs().max() < 1e-6
    network = describe(model)
    assert (network.classes, network.classifier, network.head) == (3, "LinearHead", head.digest)
    renamed = head_for(pooled.shape[1], classes=("a", "b", "d"))[0].attach(small_network(name))
    assert weights_hash(renamed) != weights_hash(model) == weights_hash(head.attach(small_network(name)))
    record = attached_head(model)
    assert record is not None
    assert (record.hash, record.classes, record.backbone) == (head.digest, ("a", "b", "c"), before)
    if name == "convnext_atto":
        with pytest.raises(UnsupportedMethod, match="more than a linear layer, such as a norm"):
            explain(model, images, TARGETS, "cam")
        return
    methods = ["cam", "gradcam", "reciprocam:kernel=single:score=logit"]
    cam, gradcam, reciprocam = explain(model, images, TARGETS, methods).values()
    expected = torch.einsum("bhwd,bkd->bkhw", grid, weight[TARGETS])
    assert (cam - expected).abs().max() < 1e-6
    cells = grid.shape[1] * grid.shape[2]
    assert (gradcam - expected.relu() / cells).abs().max() < 1e-6
    alone = expected / cells + bias[TARGETS][..., None, None]  # the logit of one cell, the others 0
    assert (reciprocam - alone).abs().max() < 1e-6


def test_prototypes_read_the_mean_as_well() -> None:
    model, images = small_network("resnet18"), random_images()
    pooled = grid_of(model, images).mean((1, 2))
    text = F.normalize(torch.randn(3, pooled.shape[1], dtype=torch.float64), dim=1)
    record = head_for(pooled.shape[1], kind="zero_shot", normalise="l2")[0].record
    Head(record, {"text": text, "logit_scale": torch.tensor(20.0)}).attach(model)
    with torch.no_grad():
        assert (model(images) - 20 * F.normalize(pooled, dim=1) @ text.T).abs().max() < 1e-6
    assert describe(model).classifier == "ZeroShotHead"
    with pytest.raises(UnsupportedMethod, match="more than a linear layer"):
        explain(model, images, TARGETS, "cam")


class Unnamed(nn.Module):
    """A network that does not say which of its layers is the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 4, 16, 16), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits."""
        return self.fc(self.body(images).mean((2, 3)))


class Named(Unnamed):
    """One that says it, but has no read-out apart."""

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.fc


class Rescaled(Named):
    """One that changes the logits behind its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 32, 32)}

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute [B, 4, h, w]."""
        return self.body(images)

    def forward_head(self, features: Tensor) -> Tensor:
        """Compute logits."""
        return self.fc(features.mean((2, 3))).mul_(2)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits."""
        return self.forward_head(self.forward_features(images))


class Derived(VisionTransformer):
    """A network whose code may be any."""


def resnet(**arguments: Any) -> nn.Module:
    model: Any = timm.create_model("resnet18", num_classes=0, **TIMM["resnet18"] | arguments)
    model.pretrained_cfg |= {"input_size": (3, 64, 64)}
    return model


@pytest.mark.parametrize(
    ("make", "changes", "reason"),
    [
        (
            lambda: small_network("cait_xxs24_224"),
            {},
            "its classifier reads a class token or an attention over blocks.1",
        ),
        (lambda: small_network("VGG"), {}, "its classifier does not read the mean of the last features"),
        (lambda: resnet(global_pool="max"), {}, r"does not read the mean of the last features \(.*max\)"),
        (lambda: Derived(64, depth=1, embed_dim=32, num_heads=2, global_pool="avg"), {}, "a class derived from one"),
        (Unnamed, {}, "it has no get_classifier"),
        (Named, {}, "it has no forward_head"),
        (Rescaled, {}, "its logits are not the output of its classifier fc, but made of it by further code"),
        (resnet, {"read_out": "token"}, "it reads out the mean of its last features; the head was made for token"),
        (resnet, {"input_width": 31}, "its features are 32 wide; the head was made for 31"),
        (resnet, {"backbone_sha256": "sha256:" + 64 * "0"}, "the head was made for the backbone"),
        (resnet, {"activation_function": "GELU"}, "a backbone with GELU, this one has no MLP of a vision transformer"),
    ],
)
def test_networks_that_read_otherwise_and_heads_for_others_are_refused(
    make: Any, changes: dict[str, Any], reason: str
) -> None:
    model = make()
    before = list(model.state_dict())
    with pytest.raises(UnsupportedModel, match=reason):
        head_for(32, **changes)[0].attach(model)
    assert list(model.state_dict()) == before
