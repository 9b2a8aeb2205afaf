"""Every classification network of timm: what it offers, that every offer is kept, and that every refusal is true.

The names are tried in parts, one for each of timm's modules, so that a run that was interrupted goes on with
`pytest -m soak -k MODULE`.
"""

from collections import Counter
from functools import cache
from typing import Any

import pytest
import timm
import torch
from explain.feature_formulas import by_position, features_and_logits, written_out
from support import soak_after
from torch import Tensor, nn

from pipeline.explain import Anatomy, Network, UnsupportedModel, describe, explain, methods
from pipeline.explain.attribution.reciprocam import mask_weights
from pipeline.explain.checkpoint.model_config import ModelConfig
from pipeline.explain.network import Requirement
from schemas.errors import UsageError

NO_GRID = {
    "its features are a sequence of tokens, and their places in the image are not known",
    "its read-out does not take one grid of features",
    "its read-out takes class tokens only, and no grid of features",
    "its classifier reads a class token, and it has no list of blocks in front of it",
}
"""Reasons why a network offers no grid of features: several branches, or an order of tokens of its own."""

NO_CLASSES = ("no classifier", "not logits", "embedding space", "these may be no logits", "does not take images")

CANARIES = ("resnet18", "swin_tiny_patch4_window7_224", "cait_xxs24_224", "vit_tiny_patch16_224", "crossvit_9_240")
MOST_PARAMETERS = 60_000_000
"""Of networks that are run; others are described only."""

SIZES = ((64, 64), (96, 96), (128, 128), (160, 160))
"""Sizes of the images on which networks are run that take any."""

TRIED = ("integrated_gradients:nodes=2", "smoothgrad:samples=2", "rise:masks=3")
"""Methods that are tried beside the default ones."""


def skeleton(name: str) -> nn.Module:
    """The network without memory for its weights, with ten classes where its constructor takes their number."""
    config = ModelConfig(architecture=name)
    try:
        return config.skeleton(num_classes=10)
    except UsageError:
        return config.skeleton()


@cache
def described(name: str) -> Network | str:
    """The description of a network, or the reason of its refusal."""
    try:
        return describe(skeleton(name))
    except UnsupportedModel as refusal:
        return str(refusal)


def check(names: tuple[str, ...]) -> Counter[str]:
    """Count the networks by what they offer."""
    counts: Counter[str] = Counter()
    for name in names:
        network = described(name)
        if isinstance(network, str):
            assert any(reason in network for reason in NO_CLASSES), (name, network)
            counts["refused"] += 1
        elif isinstance(network, Anatomy):
            counts["attention"] += 1
        elif network.features:
            counts["features"] += 1
            assert min(network.grid) >= 1
            assert network.patches > 1, name
        else:
            assert network.missing[Requirement.FEATURES] in NO_GRID or "which is no grid" in str(network.missing), name
            counts["images"] += 1
    return counts


def test_networks_are_described_by_what_they_offer() -> None:
    assert check(CANARIES) == {"features": 3, "attention": 1, "images": 1}


@pytest.mark.soak
def test_almost_every_network_of_timm_offers_methods() -> None:
    names = tuple(timm.list_models())
    counts = check(names)
    assert counts["refused"] <= 0.01 * len(names)
    assert counts["features"] + counts["attention"] >= 0.96 * len(names)


def examples(module: str) -> list[str]:
    """Name the network with the fewest parameters of each set of classes of layers in a module of timm."""
    best: dict[Any, tuple[int, str]] = {}
    for name in timm.list_models(module=module):
        model = skeleton(name)
        size = sum(parameter.numel() for parameter in model.parameters()), name
        key = frozenset(type(layer) for layer in model.modules())
        best[key] = min(best.get(key, size), size)
    return [name for count, name in best.values() if count <= MOST_PARAMETERS]


def make(name: str) -> nn.Module:
    """The network in float64, with random weights."""
    torch.manual_seed(0)
    try:
        return timm.create_model(name, num_classes=10).double().eval()
    except TypeError:
        return timm.create_model(name).double().eval()


def small_images(model: nn.Module, network: Network) -> tuple[Network, Tensor]:
    """A description for small images where a network takes them and has several cells, and two of them."""
    for size in SIZES if not isinstance(network, Anatomy) else ():
        smaller = describe(model, size)
        if smaller.input_size == size and len(smaller.features) == len(network.features) and min(smaller.grid) > 1:
            network = smaller
            break
    generator = torch.Generator().manual_seed(0)
    return network, torch.randn(2, 3, *network.input_size, generator=generator, dtype=torch.float64)


def run_offers(name: str) -> None:
    """Compute what a network offers, and compare with naive computations."""
    if isinstance(described(name), str):
        return  # see ``check``
    model = make(name)
    if isinstance(describe(model), Anatomy):
        return  # other tests try those
    network, images = small_images(model, describe(model))
    targets = torch.tensor([[1], [2]])
    maps = explain(model, images, targets, [*methods.defaults(network), *TRIED])
    for method, values in maps.items():
        assert values.shape == (2, 1, *network.grid), (name, method)
        assert values.isfinite().all(), (name, method)
    check_gradient(name, model, network, images, maps["grad_input"][:, 0])
    if network.features and not isinstance(network, Anatomy):
        check_features(name, model, network, images, maps)
    if network.has_linear_readout:
        every = torch.arange(10).expand(2, -1)
        logits = model(images)[:, :10].detach()
        biases = logits - explain(model, images, every, "cam")["cam"].mean((2, 3))
        rounding = 1e-12 * float(logits.abs().max())  # random weights may give logits of 10¹¹
        assert torch.allclose(biases[0], biases[1], rtol=1e-6, atol=1e-9 + rounding), name


def check_gradient(name: str, model: nn.Module, network: Network, images: Tensor, maps: Tensor) -> None:
    """Compare sums of gradient × input with those of torch, whose gradient of a batch of one may be wrong."""
    if (network.cell_edges[0][-1], network.cell_edges[1][-1]) != network.input_size:
        return  # cells leave out an edge
    images = images.clone().requires_grad_()
    logits = model(images)
    (gradient,) = torch.autograd.grad(logits[0, 1] + logits[1, 2], images)
    terms = (gradient * images).detach()
    # A norm behind the first convolution makes logits nearly independent of the size of patches: the terms cancel.
    allowed = 1e-9 * float(maps.abs().sum()) + 1e-12 * float(terms.abs().sum())
    assert torch.allclose(maps.sum((1, 2)), terms.sum((1, 2, 3)), rtol=1e-6, atol=allowed), name


def check_features(name: str, model: Any, network: Network, images: Tensor, maps: dict[str, Tensor]) -> None:
    """Compare maps of the first image with their formulas, and one cell of Recipro-CAM with masked features."""
    layer = network.features[0]
    features, logits = features_and_logits(model, images, layer)
    (gradient,) = torch.autograd.grad(logits[0, 1], features)
    parts = (
        by_position(features[:, layer.prefix_tokens :] if layer.layout == "NLC" else features, layer),
        by_position(gradient[:, layer.prefix_tokens :] if layer.layout == "NLC" else gradient, layer),
    )
    for method in ("gradcam", "layercam"):
        expected = written_out(method, parts[0][0].detach(), parts[1][0])
        assert torch.allclose(maps[method][0, 0], expected, rtol=1e-6, atol=1e-9 * float(gradient.abs().max())), (
            name,
            method,
        )
    if "reciprocam" in maps:
        mask = mask_weights("gaussian", network.grid)[0].reshape(network.grid)[..., None]
        masked = parts[0].detach() * mask
        with torch.no_grad():
            if layer.layout == "NLC":
                own = torch.cat([features[:, : layer.prefix_tokens], masked.flatten(1, 2)], 1)
            else:
                own = masked.permute(0, 3, 1, 2) if layer.layout == "NCHW" else masked
            expected = model.forward_head(own).softmax(1)[0, 1]
        assert torch.allclose(maps["reciprocam"][0, 0, 0, 0], expected, rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize("name", ["resnet18"])
def test_every_offer_is_kept(name: str) -> None:
    run_offers(name)


@pytest.mark.parametrize(
    "name", soak_after(1, ["pit_ti_224", "pit_ti_distilled_224", "coat_lite_tiny", "tnt_s_patch16_224", "volo_d1_224"])
)
def test_features_before_a_class_token_lie_where_their_pixels_do(name: str) -> None:
    model = make(name).float()
    network = describe(model)
    (height, width), (rows, columns) = network.input_size, network.grid

    def features(images: Tensor) -> Tensor:
        kept: list[Tensor] = []
        with model.get_submodule(network.features[0].path).register_forward_hook(lambda *args: kept.append(args[2])):
            model(images)
        return by_position(kept[0][:, network.prefix_tokens :] if kept[0].ndim == 3 else kept[0], network.features[0])[
            0
        ]

    images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = features(images)
        for row, column in ((0, columns - 1), (rows - 2, 1)):
            changed = images.clone()
            cell = slice(row * height // rows, (row + 1) * height // rows)
            changed[:, :, cell, column * width // columns : (column + 1) * width // columns] *= -3
            place = int((features(changed) - before).norm(dim=2).argmax())
            assert divmod(place, columns) == (row, column)


@pytest.mark.soak
@pytest.mark.parametrize("module", timm.list_modules())
def test_every_offer_of_a_module_is_kept(module: str) -> None:
    for name in examples(module):
        run_offers(name)
