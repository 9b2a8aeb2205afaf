"""Transformer input sampling against a naive version, and networks whose map is known."""

import pytest
import torch
from explicit import class_probabilities
from sampled import TARGETS, compute_maps, probabilities
from support import FAMILIES, family_anatomies, first_tokens, images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import TiS, UnsupportedMethod, describe
from pipeline.explain.attribution import tis
from pipeline.utils.random import rng_for

POSITIONS = {kind: anatomy.positions for kind, anatomy in family_anatomies().items()}


def naive_k_means(rows: Tensor, first: Tensor) -> Tensor:
    centroids, before = [rows[number] for number in first], None
    while True:
        nearest = [min(range(len(centroids)), key=lambda k, r=row: (r - centroids[k]).norm()) for row in rows]
        if nearest == before:
            return torch.stack(centroids)
        before = nearest
        for k in set(nearest):
            centroids[k] = torch.stack([row for row, label in zip(rows, nearest, strict=True) if label == k]).mean(0)


def naive_tis(model: nn.Module, image: Tensor, method: TiS, key: str) -> Tensor:
    """Maps [C, h, w] of one image."""
    anatomy = describe(model)
    places = anatomy.patch_tokens
    embedded = tokens = first_tokens(model, image[None])
    outputs = []
    for block in model.blocks:
        tokens = block(tokens)
        outputs.append(tokens[0, places].T)
    rows = torch.cat(outputs)
    first = rng_for(method.name, key, 0).choice(len(rows), min(method.masks, len(rows)), replace=False)
    total, times = torch.zeros(anatomy.classes, anatomy.patches, dtype=torch.float64), torch.zeros(anatomy.patches)
    for centroid in naive_k_means(rows, torch.from_numpy(first)):
        best = sorted(range(anatomy.patches), key=lambda i, c=centroid: -c[i])
        kept = sorted(best[: max(1, int(method.keep * anatomy.patches))])
        ends = embedded[:, : places.start], embedded[:, places.stop :]
        tokens = torch.cat([ends[0], embedded[:, [places.start + i for i in kept]], ends[1]], 1)
        for block in model.blocks:
            tokens = block(tokens)
        score = class_probabilities(
            model, model.forward_head(model.norm(tokens[:, : tokens.shape[1] - anatomy.registers]))
        )[0]
        for i in kept:
            total[:, i] += score
            times[i] += 1
    return torch.where(times > 0, total / times.clamp(min=1), 0).reshape(-1, *anatomy.grid)


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if POSITIONS[kind] == "absolute"])
@torch.no_grad()
def test_tis_equals_one_forward_for_each_sample(kind: str) -> None:
    model, method = small_vit(**FAMILIES[kind]), TiS(masks=10, keep=0.3)
    images = images_for(model, 1)
    computed = compute_maps(model, images, TARGETS[:1], method, keys=["a"])
    expected = naive_tis(model, images[0], method, "a")
    assert torch.allclose(computed[0], expected[TARGETS[0]], rtol=0, atol=1e-12)


@torch.no_grad()
def test_tis_has_no_more_samples_than_there_are_feature_maps() -> None:
    model, method = small_vit(), TiS(masks=10**6)
    images = images_for(model, 1)
    expected = naive_tis(model, images[0], method, "a")
    computed = compute_maps(model, images, torch.tensor([[5]]), method, keys=["a"])[0, 0]
    assert torch.allclose(computed, expected[5], rtol=0, atol=1e-12)


def test_tis_that_takes_nothing_out_is_the_probability() -> None:
    model = small_vit(reg_tokens=3)
    images = images_for(model)
    maps = compute_maps(model, images, TARGETS, TiS(masks=3, keep=1.0))
    for place in range(3):
        expected = probabilities(model, images[place])[TARGETS[place]]
        assert torch.allclose(maps[place], expected[:, None, None].expand_as(maps[place]), rtol=0, atol=1e-12)


def test_tis_is_0_at_a_patch_that_is_never_kept() -> None:
    """One sample of one patch, which is the least that is ever kept."""
    model = small_vit()
    maps = compute_maps(model, images_for(model), TARGETS, TiS(masks=1, keep=0.001))
    assert ((maps > 0).sum((2, 3)) == 1).all()
    assert ((maps == 0).sum((2, 3)) == 35).all()


def test_k_means_ends_where_each_centroid_is_the_mean_of_what_is_nearest_to_it() -> None:
    rows = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    far = torch.full((1, 5), 100.0, dtype=torch.float64)
    centroids = tis._k_means(rows, torch.cat([rows[:7], far]))
    nearest = torch.cdist(rows, centroids).argmin(1)
    for k in range(7):
        assert torch.allclose(centroids[k], rows[nearest == k].mean(0), rtol=0, atol=1e-14)
    assert torch.equal(centroids[7], far[0]), "an empty cluster keeps its centroid"


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if POSITIONS[kind] != "absolute"])
def test_tis_refuses_positions_that_belong_to_the_whole_grid(kind: str) -> None:
    model = small_vit(**FAMILIES[kind])
    with pytest.raises(UnsupportedMethod, match=f"its {POSITIONS[kind]} positions belong to the whole grid"):
        compute_maps(model, images_for(model), TARGETS, TiS())
