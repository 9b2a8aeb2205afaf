"""ViT-CX against a naive version, and networks whose map is known."""

import pytest
import torch
import torch.nn.functional as F
from sampled import KEYS, TARGETS, compute_maps, probabilities
from support import FAMILIES, HEADS, first_tokens, images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import Flag, ViTCX, describe, explain
from pipeline.explain.attribution import vit_cx
from pipeline.utils.random import rng_for


def feature_maps(model: nn.Module, image: Tensor) -> Tensor:
    """[D, h, w], by the network's parts one after the other."""
    anatomy = describe(model)
    with torch.no_grad():
        tokens = first_tokens(model, image[None])
        for block in list(model.blocks)[:-1]:
            tokens = block(tokens)
        tokens = model.blocks[-1].norm1(tokens)[0, anatomy.patch_tokens]
    return tokens.T.reshape(-1, *anatomy.grid)


def unit(values: Tensor) -> Tensor:
    return (
        (values - values.min()) / (values.max() - values.min())
        if values.max() > values.min() + 1e-12
        else values * 0 + 1
    )


def complete_linkage(distances: Tensor, threshold: float) -> list[list[int]]:
    """Clusters: the two whose farthest members are nearest are joined, as long as these are near enough."""
    clusters = [[number] for number in range(len(distances))]
    while len(clusters) > 1:
        pairs = [(first, second) for second in range(len(clusters)) for first in range(second)]
        apart = [distances[clusters[first]][:, clusters[second]].max().item() for first, second in pairs]
        nearest = min(apart)
        if nearest > threshold:
            break
        first, second = pairs[apart.index(nearest)]
        clusters[first] += clusters.pop(second)
    return sorted(sorted(cluster) for cluster in clusters)


def naive_vit_cx(model: nn.Module, image: Tensor, method: ViTCX, key: str) -> tuple[Tensor, int]:
    """Maps [C, h, w] of one image, and the number of masks."""
    anatomy = describe(model)
    maps = F.interpolate(feature_maps(model, image)[None], size=anatomy.input_size, mode="bilinear")[0]
    maps = torch.stack([unit(values) for values in maps])
    flat = maps.flatten(1) / maps.flatten(1).norm(dim=1, keepdim=True)
    clusters = complete_linkage(1 - flat @ flat.T, method.distance)
    masks = [unit(maps[cluster].sum(0)) for cluster in clusters]
    gates = rng_for(method.name, key, 0)
    plain = probabilities(model, image)
    shown, total = torch.stack(masks).sum(0), torch.zeros(len(plain), *maps[0].shape, dtype=maps.dtype)
    for mask in masks:
        noise = method.noise * torch.from_numpy(gates.standard_normal(image.shape)) * (1 - mask)
        score = probabilities(model, image * mask + noise) - probabilities(model, image + noise) + plain
        total += score[:, None, None] * mask
    pixels = torch.where(shown > 0, total / shown, 0.0) / len(masks)
    return F.adaptive_avg_pool2d(pixels, anatomy.grid), len(masks)


@pytest.mark.parametrize(
    ("kind", "distance"),
    [("class token", 0.0), ("class token", 0.2)]
    + [(kind, 0.1) for kind in ("class token", "registers", "mean, fc_norm", "not square", "attention pool", *HEADS)],
)
def test_vit_cx_equals_itself_written_out(kind: str, distance: float) -> None:
    model, method = small_vit(**FAMILIES[kind]), ViTCX(distance=distance, noise=0.3)
    images = images_for(model, 2)
    computed = compute_maps(model, images, TARGETS[:2], method, keys=KEYS[:2])
    for place in range(2):
        expected, masks = naive_vit_cx(model, images[place], method, KEYS[place])
        assert torch.allclose(computed[place], expected[TARGETS[place]], rtol=0, atol=1e-12)
        assert (masks == 32) if distance == 0 else (1 < masks < 32)


@pytest.mark.parametrize("patch", [6, 8])
def test_vit_cx_of_constant_feature_maps_is_the_probability(patch: int) -> None:
    """One mask of ones: all is shown, nothing is noise. With patches of 6 pixels, resizing rounds."""
    model = small_vit(patch_size=patch)
    model.blocks[-1].norm1.weight.data[:] = 0
    images = images_for(model)
    maps = compute_maps(model, images, TARGETS, ViTCX())
    for place in range(3):
        expected = probabilities(model, images[place])[TARGETS[place]]
        assert torch.allclose(maps[place], expected[:, None, None].expand_as(maps[place]), rtol=0, atol=1e-14)


def test_vit_cx_takes_a_constant_feature_map_for_a_mask_that_hides_nothing() -> None:
    model, method = small_vit(patch_size=6), ViTCX(distance=0.01)
    model.blocks[-1].norm1.weight.data[:15] = 0  # resized, a cluster's sum of 15 is not everywhere the same number
    images = images_for(model, 1)
    expected, _ = naive_vit_cx(model, images[0], method, "a")
    computed = compute_maps(model, images, torch.tensor([[5]]), method, keys=["a"])[0, 0]
    assert torch.allclose(computed, expected[5], rtol=0, atol=1e-12)


def test_vit_cx_of_one_cluster_is_constant_but_where_the_mask_is_0() -> None:
    """S = s_1 on each pixel but the one where the mask is least, a 64th of its patch."""
    model = small_vit()
    maps = compute_maps(model, images_for(model, 1), torch.tensor([[5]]), ViTCX(distance=1.0)).flatten().sort().values
    assert torch.allclose(maps[1:], maps[-1].expand(35), rtol=0, atol=1e-14)
    assert torch.allclose(maps[0], maps[-1] * 63 / 64, rtol=0, atol=1e-14)


def test_vit_cx_of_a_feature_map_that_overflows_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vit()
    norm = model.blocks[-1].norm1
    plain = type(norm).forward

    def overflow(module: nn.Module, tokens: Tensor) -> Tensor:
        output = plain(module, tokens)
        if module is norm:
            output[:, 7, 3] = torch.inf
        return output

    monkeypatch.setattr(type(norm), "forward", overflow)
    maps = explain(model, images_for(model), TARGETS, ViTCX())
    assert maps.flags("vit_cx").eq(Flag.NOT_FINITE).all()


def test_one_feature_map_is_one_cluster() -> None:
    assert vit_cx._cluster_labels(torch.tensor([[2.0]]), 0.1) == [0]
