"""Every classification network of timm: what it offers, that every offer is kept, and that every refusal is true."""

from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest
import timm
import torch
from support import soak_after
from torch import nn

from pipeline.explain import Anatomy, Network, UnsupportedModel, describe, explain, methods
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
MOST_PARAMETERS = 12_000_000
"""Of networks that are run; the others are described only."""


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
    assert counts["features"] + counts["attention"] >= 0.93 * len(names)


def smallest() -> Iterator[str]:
    """Name the network of each class with the fewest parameters."""
    best: dict[tuple[str, str], tuple[int, str]] = {}
    for name in timm.list_models():
        try:
            model = skeleton(name)
        except UsageError:
            continue
        key = (type(model).__module__, type(model).__name__)
        size = sum(parameter.numel() for parameter in model.parameters()), name
        best[key] = min(best.get(key, size), size)
    return (name for count, name in best.values() if count <= MOST_PARAMETERS)


def run_offers(name: str) -> None:
    """Compute the default methods of a network, and compare gradient × input and CAM with what they sum to."""
    if isinstance(described(name), str):
        return  # see ``check``
    torch.manual_seed(0)
    try:
        model = timm.create_model(name, num_classes=10).double().eval()
    except TypeError:
        model = timm.create_model(name).double().eval()
    network = describe(model)
    images = torch.randn(2, 3, *network.input_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([[1], [2]])
    maps = explain(model, images, targets, methods.defaults(network))
    for method, values in maps.items():
        assert values.shape == (2, 1, *network.grid), (name, method)
        assert values.isfinite().all(), (name, method)
    images.requires_grad_()
    logits = model(images)
    gradients = [torch.autograd.grad(logits[row, targets[row, 0]], images, retain_graph=True)[0] for row in range(2)]
    if (network.cell_edges[0][-1], network.cell_edges[1][-1]) == network.input_size:
        whole = torch.stack([(gradient * images)[row].sum() for row, gradient in enumerate(gradients)])
        assert torch.allclose(maps["grad_input"].sum((1, 2, 3)), whole, rtol=1e-6, atol=1e-9), name
    if network.has_linear_readout:
        every = torch.arange(10).expand(2, -1)
        biases = logits[:, :10] - explain(model, images.detach(), every, "cam")["cam"].mean((2, 3))
        assert torch.allclose(biases[0], biases[1], rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize("name", soak_after(1, ["test_resnet", "all"]))
def test_every_offer_is_kept(name: str) -> None:
    for each in smallest() if name == "all" else (name,):
        run_offers(each)
