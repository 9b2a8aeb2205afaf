"""Networks that are no plain vision transformers: what they offer, and maps against the formulas written out."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from explain.feature_formulas import by_position, features_and_logits, written_out
from some_networks import NAMES, random_images, small_network
from support import images_for, random_head, small_vit, soak_after
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pipeline.explain import Anatomy, Network, UnsupportedMethod, UnsupportedModel, describe, explain, methods
from pipeline.explain.attribution.reciprocam import mask_weights
from pipeline.explain.description import _describe_any
from pipeline.explain.explainer import Explainer
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.network import Requirement

TARGETS = torch.tensor([[1, 3], [2, 2]])
DEFAULT = 4
"""Number of the networks that the default tests try."""

SLOW = {
    "rise": "rise:masks=3",
    "integrated_gradients": "integrated_gradients:nodes=2",
    "smoothgrad": "smoothgrad:samples=2",
}

LINEAR = {
    "resnet18", "resnetv2_50", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "pvt_v2_b0",
    "maxvit_nano_rw_256", "coatnet_nano_rw_224", "DenseNet", "MViT", "Mixer", "VGG with a mean",
}  # fmt: skip
"""Networks whose logits are linear in the mean of their features."""

NOT_A_MEAN = {"VGG": "features", "cait_xxs24_224": "other", "xcit_nano_12_p16_224": "other"}
"""Read-outs of the networks that read more than a mean."""


@pytest.mark.parametrize("name", soak_after(DEFAULT, NAMES))
def test_maps_at_features_are_their_formulas(name: str) -> None:
    model, images = small_network(name), random_images()
    network = describe(model)
    layers = [network.features[0], *(layer for layer in network.features if layer.name == "stage2")]
    specs = [f"{each}:layer={layer.name}" for layer in layers for each in ("gradcam", "gradcam_pp", "layercam")]
    maps = explain(model, images, TARGETS, specs)
    for layer in layers:
        features, logits = features_and_logits(model, images, layer)
        for row, k in ((0, 0), (0, 1), (1, 0)):
            (gradient,) = torch.autograd.grad(logits[row, TARGETS[row, k]], features, retain_graph=True)
            parts = by_position(features, layer)[row].detach(), by_position(gradient, layer)[row]
            for method in ("gradcam", "gradcam_pp", "layercam"):
                computed = maps[method + (f"_{layer.name}" if layer.name != "last" else "")][row, k]
                expected = written_out(method, *parts)
                assert computed.shape == layer.grid
                assert torch.allclose(computed, expected, rtol=1e-9, atol=1e-12 * float(parts[1].abs().max())), method


@pytest.mark.parametrize("name", soak_after(DEFAULT, NAMES))
def test_every_method_that_is_offered_gives_a_map_and_leaves_the_network_as_it_was(name: str) -> None:
    model, images = small_network(name).train(), random_images()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    network = describe(model)
    offered = [SLOW.get(each, each) for each in methods if not methods[each]().refusal(network) and each != "scorecam"]
    assert {"grad_input", "rise:masks=3", "occlusion", "center"} <= set(offered)
    maps = explain(model, images, TARGETS, offered, keys=["a", "b"])
    for method, values in maps.items():
        assert values.shape == (2, 2, *network.grid), method
        assert values.isfinite().all(), method
        assert torch.equal(values[1, 0], values[1, 1]), method
    alone = explain(model, images[1:], TARGETS[1:], offered, keys=["b"])
    for method, values in alone.items():
        assert torch.allclose(values[0], maps[method][1], rtol=1e-7, atol=1e-9 * float(values.abs().max())), method
    assert model.training
    assert "forward_head" not in vars(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", soak_after(DEFAULT, NAMES))
def test_cam_is_the_share_of_a_position_in_the_logit(name: str) -> None:
    model, images = small_network(name), random_images()
    network = describe(model)
    assert network.readout == NOT_A_MEAN.get(name, "mean")
    assert network.has_linear_readout == (name in LINEAR)
    if name not in LINEAR:
        with pytest.raises(UnsupportedMethod, match="take gradcam"):
            explain(model, images, TARGETS, "cam")
        return
    maps = explain(model, images, TARGETS, "cam")["cam"]
    features = by_position(model.forward_features(images).detach(), network.features[0])
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else model.fc
    weight, bias = classifier.weight.flatten(1), classifier.bias
    expected = torch.einsum("bhwd,bkd->bkhw", features, weight[TARGETS])
    assert torch.allclose(maps, expected, rtol=1e-9, atol=1e-10)
    logits = model(images).gather(1, TARGETS)
    assert torch.allclose(maps.mean((2, 3)) + bias[TARGETS], logits, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("classifier", "is_linear"),
    [
        (nn.Linear(32, 10), True),
        (nn.Sequential(nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 10)), True),
        (nn.Sequential(nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 10)), False),
        (random_head("texts, projected", read_out="mean"), False),
    ],
    ids=["linear", "batch norm", "hidden layer", "cosines"],
)
def test_cam_of_a_plain_vision_transformer_needs_a_linear_classifier(classifier: Any, is_linear: bool) -> None:
    model = small_vit(class_token=False, global_pool="avg", fc_norm=False)
    if isinstance(classifier, nn.Module):
        model.head = classifier.double().eval()
    else:
        model = classifier.attach(model)
    images, targets = images_for(model, 2), torch.tensor([[1, 4], [2, 2]])
    if not is_linear:
        with pytest.raises(UnsupportedMethod, match="more than a linear layer"):
            explain(model, images, targets, "cam")
        return
    maps = explain(model, images, targets, "cam")
    constant = model.head(torch.zeros(1, 32).double())[0, targets]
    assert torch.allclose(maps["cam"].mean((2, 3)) + constant, maps.logits.gather(1, targets), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", soak_after(2, [name for name in NAMES if NOT_A_MEAN.get(name) != "other"]))
@pytest.mark.parametrize("kernel", ["gaussian", "single"])
def test_reciprocam_is_the_probability_of_masked_features(name: str, kernel: Any) -> None:
    model, images = small_network(name), random_images()
    network = describe(model)
    maps = explain(model, images, TARGETS, f"reciprocam:kernel={kernel}")
    weights = mask_weights(kernel, network.grid).reshape(network.patches, *network.grid)
    features = model.forward_features(images).detach()
    for index, mask in enumerate(weights):
        mask = {"NCHW": mask, "NHWC": mask[..., None], "NLC": mask.reshape(-1, 1)}[network.features[0].layout]
        expected = model.forward_head(features * mask).softmax(1).gather(1, TARGETS)
        (computed,) = maps.values()
        assert torch.allclose(computed.flatten(2)[:, :, index], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", soak_after(2, [name for name in NAMES if name not in NOT_A_MEAN]))
def test_pm_zs_reads_one_position(name: str) -> None:
    model, images = small_network(name), random_images(1)
    (maps,) = explain(model, images, TARGETS[:1], "pm_zs:target=logit").values()
    layer = describe(model).features[0]
    features = model.forward_features(images).detach()
    for y in range(layer.grid[0]):
        for x in range(layer.grid[1]):
            cell = by_position(features, layer)[:, y, x]  # the mean of a grid that is the same everywhere
            everywhere = {
                "NCHW": lambda cell=cell: cell[:, :, None, None].expand_as(features),
                "NHWC": lambda cell=cell: cell[:, None, None].expand_as(features),
                "NLC": lambda cell=cell: cell[:, None].expand_as(features),
            }[layer.layout]()
            expected = model.forward_head(everywhere).gather(1, TARGETS[:1])
            assert torch.allclose(maps[:, :, y, x], expected, rtol=1e-9, atol=1e-10)


def test_general_reciprocam_is_that_of_a_plain_vision_transformer() -> None:
    """An attention pooler reads the tokens behind the last norm, which both forms mask."""
    model = small_vit(class_token=False, global_pool="map")
    images, targets = images_for(model, 2), torch.tensor([[1, 4], [2, 2]])
    plain = describe(model)
    network = _describe_any(model, None, "for the comparison")
    assert isinstance(plain, Anatomy)
    assert not isinstance(network, Anatomy)
    assert network.readout == "features"
    chosen = methods.resolve(["reciprocam", "reciprocam:kernel=box:score=finer"])
    with preserve_model_state(model):
        fast, general = (
            Explainer(model, each, chosen, 0).maps(images, lambda rows, _: targets[rows], ["a", "b"])
            for each in (plain, network)
        )
    for name, maps in fast.items():
        assert torch.allclose(maps, general[name], rtol=1e-9, atol=1e-12), name


def test_scorecam_weighs_channels_by_masked_images() -> None:
    model, images = small_network("resnet18"), random_images(1)
    (maps,) = explain(model, images, TARGETS[:1], "scorecam:layer=stage3").values()
    features, _ = features_and_logits(model, images, describe(model).layer("stage3"))
    features, scores = features.detach(), []
    for channel in range(features.shape[1]):
        mask = interpolate(features[:, channel : channel + 1], size=(64, 64), mode="bilinear", align_corners=False)
        mask = (mask - mask.min()) / (mask.max() - mask.min()) if mask.max() > mask.min() else mask * 0
        scores.append(model(images * mask)[0, TARGETS[0]])
    weights = torch.stack(scores).softmax(0)
    assert torch.allclose(maps[0], torch.einsum("dk,dhw->khw", weights, features[0]).relu(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("window", [1, 2])
def test_occlusion_hides_windows(window: int) -> None:
    model, images = small_network("VGG with a mean"), random_images(1)
    (maps,) = explain(model, images, TARGETS[:1], f"occlusion:window={window}").values()
    whole, sums, counts = model(images).softmax(1)[0], torch.zeros(2, 4, 4).double(), torch.zeros(4, 4)
    for y in range(5 - window):
        for x in range(5 - window):
            hidden = images.clone()
            hidden[:, :, 16 * y : 16 * (y + window), 16 * x : 16 * (x + window)] = 0
            fall = (whole - model(hidden).softmax(1)[0])[TARGETS[0]]
            sums[:, y : y + window, x : x + window] += fall[:, None, None]
            counts[y : y + window, x : x + window] += 1
    assert torch.allclose(maps[0], sums / counts, rtol=1e-9, atol=1e-12)


def test_cells_of_unequal_size_share_all_pixels() -> None:
    model = small_network("VGG with a mean")
    images = random_images(2, (70, 54))  # cells of 17.5 and 18 pixels
    network = describe(model, (70, 54))
    assert network.grid == (4, 3)
    assert network.cell_size is None
    maps = explain(model, images, TARGETS, ["grad_input", "edges"])
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).gather(1, TARGETS[:, :1]).sum(), images)
    pixels = (images * gradient).sum(1).detach()
    down, across = network.cell_edges
    for y in range(4):
        for x in range(3):
            cell = pixels[:, down[y] : down[y + 1], across[x] : across[x + 1]]
            assert torch.allclose(maps["grad_input"][:, 0, y, x], cell.sum((1, 2)), rtol=1e-9, atol=1e-12)


def test_a_method_of_global_attention_is_refused_for_windows() -> None:
    model = small_network("swin_tiny_patch4_window7_224")
    network = describe(model)
    assert set(network.missing) == {Requirement.ATTENTION}
    names = ("attention", "rollout", "legrad", "tis", "reciprocam:block=-2", "legrad:backward=libra", "libra_fullgrad")
    for name in names:
        with pytest.raises(UnsupportedMethod, match=r"every token in every block: it is a SwinTransformer"):
            explain(model, random_images(), TARGETS, name)
    for name in ("cp_lrp", "attn_lrp:gamma=0.25", "grad_input:backward=libra"):
        with pytest.raises(UnsupportedMethod, match="read=pixels"):
            explain(model, random_images(), TARGETS, name)
    with pytest.raises(UnsupportedMethod, match="there is no layer stage5; there are last, stage1, stage2"):
        explain(model, random_images(), TARGETS, "gradcam:layer=stage5")


def test_a_network_of_unknown_structure_offers_what_needs_images_only() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.fc = nn.Linear(3 * 64, 8), nn.Linear(8, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(self.project(images.flatten(1, 2).transpose(1, 2)).relu().mean(1))

    model = Bag().double()
    with pytest.raises(UnsupportedModel, match=r"does not state the size of its images; give describe\(model"):
        describe(model)
    network = describe(model, (64, 64))
    assert "sequence of tokens" in network.missing[Requirement.FEATURES]
    assert network.grid == (4, 4)
    offered = {name for name in methods if not methods[name]().refusal(network)}
    controls = {"center", "uniform", "random", "edges"}
    assert offered == {"grad_input", "integrated_gradients", "smoothgrad", "rise", "occlusion"} | controls
    assert explain(model, random_images(), TARGETS, "grad_input")["grad_input"].abs().max() > 0


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("resnet18", {"num_classes": 0}, "it has no classifier"),
        ("resnet18", {"num_classes": 1}, "it has one logit"),
        ("resnet50_clip", {}, "projects into an embedding space of 1024 channels"),
        (
            "convnext_base.clip_laion2b",
            {"depths": (1,) * 4, "dims": (8,) * 4},
            "projects into an embedding space of 640 channels",
        ),
        ("resnet18", {"in_chans": 1}, "does not take images"),
    ],
)
def test_a_network_without_classes_or_rgb_is_refused(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        describe(timm.create_model(name, **options))


def test_a_description_of_windows_is_no_anatomy() -> None:
    network = describe(small_network("swinv2_tiny_window8_256"))
    assert type(network) is Network
    assert replace(network, classes=1).has_constant_probability


def test_a_network_that_overwrites_its_features_gives_the_same_maps() -> None:
    class Overwriting(type(small_network("VGG with a mean"))):  # type: ignore[misc]
        def forward_head(self, features: Tensor) -> Tensor:
            return super().forward_head(features.mul_(2))

    model = small_network("VGG with a mean")
    changed = small_network("VGG with a mean")
    changed.__class__ = Overwriting
    images = random_images()
    plain = explain(model, images, TARGETS, ["gradcam", "layercam"])
    doubled = explain(changed, images, TARGETS, ["gradcam", "layercam"])
    for name, maps in plain.items():
        assert torch.allclose(doubled[name], 2 * maps, rtol=1e-9, atol=1e-12), name


def test_a_module_under_two_names_stays_what_it_was() -> None:
    class Sharing(type(small_network("VGG with a mean"))):  # type: ignore[misc]
        def forward_features(self, images: Tensor) -> Tensor:
            return self.again(self.features[-2:](super().forward_features(images)))

    model = small_network("VGG with a mean")
    model.features.append(nn.Conv2d(32, 32, 3, padding=1).double())
    model.again = model.features[-1]
    model.tied = nn.Linear(32, 5).double()
    model.tied.weight = model.fc.weight
    model.__class__ = Sharing
    images = random_images(1)
    before = model(images)
    assert describe(model).grid == (4, 4)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert torch.equal(model(images), before)
    assert explain(model, images, TARGETS[:1], "cam")["cam"].abs().max() > 0
