"""Probabilities and losses are those of the head's own activation, and what needs several classes says so."""

from typing import Any

import pytest
import torch
from support import FAMILIES, HEADS, images_for, random_head, small_vit
from torch import Tensor, nn

from pipeline.explain import describe, explain
from pipeline.explain.explainer import check_supported
from pipeline.explain.head import Head
from pipeline.explain.map_batch import precision_error
from pipeline.explain.readout import (
    class_log_odds,
    class_log_probabilities,
    class_probabilities,
    label_loss,
    patch_log_odds,
    patch_probabilities,
)
from pipeline.explain.registry import methods
from schemas.errors import UnsupportedMethod

CLIP: dict[str, Any] = {"name": "vit_base_patch16_clip_quickgelu_224", "num_classes": 24}
SIGLIP: dict[str, Any] = {"class_token": False, "global_pool": "map", "num_classes": 0}
DINO: dict[str, Any] = {"reg_tokens": 3, "num_classes": 0}
NETWORKS = {
    "texts": (CLIP, "texts", "softmax"),
    "texts, sigmoid": (SIGLIP, "texts, sigmoid", "sigmoid"),
    "pooler, softmax": (SIGLIP, "texts, sigmoid", "softmax"),
    "linear": (DINO, "class token and mean", "softmax"),
    "linear, sigmoid": (DINO, "class token and mean", "sigmoid"),
    "no head file": ({}, "", "softmax"),
}
PROBABILITIES = {"occlusion", "rise", "tis", "vit_cx", "reciprocam"}
"""Methods that are made of class probabilities."""
PATCHES = {"pm_zs", "pm_value"}


def head_of(kind: str, activation: str, classes: int = 10) -> Head:
    changes: dict[str, Any] = {"activation": activation, "classes": tuple(f"class {c}" for c in range(classes))}
    head = random_head(kind, **changes)
    for name in ("text", "weight", "bias"):
        if name in head.tensors:
            head.tensors[name] = head.tensors[name][:classes]
    if activation == "softmax" and "logit_scale" in head.tensors:
        head.tensors["logit_scale"] = torch.tensor(12.0)
    return head


def network(name: str, classes: int = 10) -> nn.Module:
    options, kind, activation = NETWORKS[name]
    model = small_vit(**options)
    return head_of(kind, activation, classes).attach(model) if kind else model


def naive(logits: Tensor, activation: str) -> Tensor:
    if activation == "sigmoid":
        return 1 / (1 + (-logits).exp())
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_probabilities_odds_and_losses_are_those_of_their_definitions(name: str) -> None:
    model, activation = network(name), NETWORKS[name][2]
    assert describe(model).class_activation == activation
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 7, 10, generator=generator, dtype=torch.float64)
    class_ids = torch.randint(10, (4, 7, 3), generator=generator)
    expected = naive(logits, activation)
    close = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(class_probabilities(model, logits), expected, **close)
    torch.testing.assert_close(class_log_probabilities(model, logits), expected.log(), **close)
    chosen = expected.gather(-1, class_ids)
    torch.testing.assert_close(class_log_odds(model, logits, class_ids), (chosen / (1 - chosen)).log(), **close)
    labels = torch.randint(10, (4,), generator=generator)
    one_hot = torch.nn.functional.one_hot(labels, 10).bool()
    image = expected[:, 0]
    binary = -torch.where(one_hot, image.log(), (1 - image).log()).sum(-1)
    loss = binary if activation == "sigmoid" else -image[one_hot].log()
    torch.testing.assert_close(label_loss(model, logits[:, 0], labels), loss, **close)
    of_patches = patch_probabilities(model, logits)
    if "texts" not in name and "pooler" not in name:
        torch.testing.assert_close(of_patches, naive(logits, "sigmoid"), **close)
    columns = torch.randint(10, (4, 2), generator=generator)
    chosen = of_patches.gather(2, columns[:, None].expand(-1, 7, -1)).transpose(1, 2)
    torch.testing.assert_close(patch_log_odds(model, logits, columns).sigmoid(), chosen, **close)


def test_odds_are_exact_where_the_probability_is_rounded_to_one() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0]])
    assert class_log_odds(network("no head file"), logits, torch.tensor([[0]])) == 60 - torch.tensor(2.0).log()
    assert class_log_probabilities(network("texts, sigmoid"), torch.tensor([-200.0])) == -200


@pytest.mark.parametrize("name", ["texts", "pooler, softmax", "linear"])
def test_the_softmax_of_one_class_is_refused_by_the_methods_that_take_it(name: str) -> None:
    model = network(name, classes=1)
    anatomy = describe(model)
    refused = {
        base_name
        for base_name, method in methods.items()
        if "softmax of its only class is always 1" in (method().refusal(anatomy) or "")
    }
    assert refused == PROBABILITIES | (set() if name == "linear" else PATCHES)
    images, targets = images_for(model), torch.zeros(3, 1, dtype=torch.int64)
    with pytest.raises(UnsupportedMethod, match=r"reciprocam is not defined .* always 1.*; or take score=logit"):
        explain(model, images, targets, "reciprocam")
    defaults = {method.name for method in methods.defaults(anatomy)}
    assert "reciprocam_logit" in defaults
    assert not defaults & refused
    several = network(name)
    compared = [method.spec for method in methods.defaults(anatomy) if method.kind != "control"]
    alone, among = explain(model, images, targets, compared), explain(several, images, targets, compared)
    for method in alone:
        torch.testing.assert_close(alone[method], among[method], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["texts, sigmoid", "linear, sigmoid"])
def test_one_class_with_a_sigmoid_is_explained_by_every_method(name: str) -> None:
    anatomy = describe(network(name, classes=1))
    for method in methods.values():
        assert "only class" not in (method().refusal(anatomy) or "")
    chosen = methods.defaults(anatomy)
    assert check_supported(chosen, anatomy) == chosen
    assert "reciprocam" in {method.name for method in chosen}


@pytest.mark.parametrize("base_name", sorted(PROBABILITIES | PATCHES))
def test_a_further_text_changes_the_softmax_and_not_the_sigmoid(base_name: str) -> None:
    short = {"rise": "rise:masks=6", "tis": "tis:masks=6", "vit_cx": "vit_cx:distance=0.2"}.get(base_name, base_name)
    for name, equal in (("pooler, softmax", False), ("texts, sigmoid", True)):
        few, many = network(name, classes=5), network(name)
        images, targets = images_for(few), torch.tensor([[0, 3]] * 3)
        maps = [explain(model, images, targets, short)[methods.parse(short).name] for model in (few, many)]
        assert torch.allclose(*maps, rtol=1e-9, atol=1e-12) == equal


@pytest.mark.parametrize("kind", HEADS)
def test_half_precision_of_the_network_leaves_the_comparison_with_texts_in_full(kind: str) -> None:
    model = small_vit(**FAMILIES[kind]).float()
    images, targets = images_for(model).float(), torch.tensor([[1, 4], [2, 2], [0, 9]])
    names = ["legrad", "legrad:score=cosine", "legrad:authors_code", "reciprocam", "pm_zs", "pm_value", "cp_lrp"]
    names = [name for name in names if not methods.parse(name).refusal(describe(model))]
    half, full = (explain(model, images, targets, names, precision=precision) for precision in ("bfloat16", "full"))  # type: ignore[arg-type]
    assert max(precision_error(half, full).values()) < 0.1
    if "texts" in kind:
        assert half.logits.dtype == torch.float32
