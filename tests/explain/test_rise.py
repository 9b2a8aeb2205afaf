"""RISE against a naive version, its expectation, and networks whose map is known."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sampled import KEYS, TARGETS, compute_maps, probabilities
from support import FAMILIES, HEADS, images_for, small_vit
from torch import Tensor

from pipeline.explain import RISE, describe
from pipeline.explain.capture import Capture
from pipeline.explain.trace import Trace, record_forward
from pipeline.utils.random import rng_for


def rise_masks(method: RISE, key: str, size: tuple[int, int]) -> list[Tensor]:
    """Masks [H, W], resized and cut out one by one."""
    gates = rng_for(method.name, key, 0)
    cell = [-(-side // method.cells) for side in size]
    grids = torch.from_numpy(gates.random((method.masks, method.cells, method.cells)) < method.keep).double()
    down, across = (gates.integers(0, side, method.masks) for side in cell)
    up = [(method.cells + 1) * side for side in cell]
    masks = []
    for grid, y, x in zip(grids, down, across, strict=True):
        large = F.interpolate(grid[None, None], size=up, mode="bilinear", align_corners=False)[0, 0]
        masks.append(large[y : y + size[0], x : x + size[1]])
    return masks


@pytest.mark.parametrize(
    ("kind", "cells"),
    [("class token", 1), ("class token", 7)]
    + [(kind, 5) for kind in ("not square", "attention pool", "distilled", *HEADS)],
)
def test_rise_equals_one_forward_for_each_mask(kind: str, cells: int) -> None:
    """Five and seven do not divide the sides."""
    model, method = small_vit(**FAMILIES[kind]), RISE(masks=7, cells=cells, keep=0.3)
    images, anatomy = images_for(model), describe(model)
    computed = compute_maps(model, images, TARGETS, method, keys=KEYS)
    for place, key in enumerate(KEYS):
        for column, target in enumerate(TARGETS[place]):
            total = torch.zeros(anatomy.input_size, dtype=torch.float64)
            for mask in rise_masks(method, key, anatomy.input_size):
                total += probabilities(model, images[place] * mask)[target] * mask
            expected = F.adaptive_avg_pool2d((total / (7 * 0.3))[None], anatomy.grid)[0]
            assert torch.allclose(computed[place, column], expected, rtol=0, atol=1e-13)


def test_rise_with_one_mask_of_ones_is_the_probability() -> None:
    model = small_vit()
    images = images_for(model)
    maps = compute_maps(model, images, TARGETS, RISE(masks=1, keep=1.0))
    for place in range(3):
        expected = probabilities(model, images[place])[TARGETS[place]]
        assert torch.allclose(maps[place], expected[:, None, None].expand_as(maps[place]), rtol=0, atol=1e-13)


def traced(count: int) -> Trace:
    """A trace of one white image under so many keys."""
    model = small_vit()
    images = torch.ones(count, 3, 48, 48, dtype=torch.float64)
    return record_forward(model, describe(model), images, Capture.LAST_BLOCK, tuple(map(str, range(count))), seed=0)


def rise_where(monkeypatch: pytest.MonkeyPatch, trace: Trace, probability: Any, method: RISE) -> Tensor:
    """Maps [keys, h, w] of class 0, whose probability is this function of the image."""

    def predict(images: Tensor) -> Tensor:
        chance = probability(images)
        return torch.stack([chance, 1 - chance], 1).log()

    monkeypatch.setattr(trace, "predict", predict)
    with torch.no_grad():
        return method.compute(trace, torch.zeros(len(trace.images), 1, dtype=torch.int64))[:, 0]


def test_rise_of_a_network_that_does_not_look_is_its_probability_times_the_mean_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = RISE(masks=50, keep=0.4)
    computed = rise_where(monkeypatch, traced(1), lambda images: torch.full_like(images[:, 0, 0, 0], 0.2), method)[0]
    masks = torch.stack(rise_masks(method, "0", (48, 48)))
    expected = F.avg_pool2d(0.2 * masks.mean(0)[None] / 0.4, 8)[0]
    assert torch.allclose(computed, expected, rtol=0, atol=1e-14)


def covariance(cells: int, keep: float) -> Tensor:
    """E[M_i M_j] of the patch means of a mask, [36, 36]: over all shifts of all single cells."""
    side = 48 // cells
    unit = torch.eye(cells**2, dtype=torch.float64).reshape(-1, 1, cells, cells)
    large = F.interpolate(unit, scale_factor=(cells + 1) * side / cells, mode="bilinear", align_corners=False)
    total = torch.zeros(36, 36, dtype=torch.float64)
    for y in range(side):
        for x in range(side):
            weights = F.avg_pool2d(large[:, :, y : y + 48, x : x + 48], 8).flatten(1)  # [cell, patch]
            total += weights.T @ weights / side**2
    return keep**2 + keep * (1 - keep) * total


def test_rise_of_a_linear_probability_comes_to_its_expectation(monkeypatch: pytest.MonkeyPatch) -> None:
    """p_c = ¹⁄₁₀ + Σ_j w_j M_j gives E[S_i] = ¹⁄₁₀ + Σ_j w_j E[M_i M_j] / p.

    The maps of 100 keys are independent. So their mean is off by its standard error, which their own spread
    gives; and nine times the masks have a third of the spread.
    """
    weights = torch.rand(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 8
    weights *= 0.8 / weights.sum()

    def probability(images: Tensor) -> Tensor:
        return 0.1 + (F.avg_pool2d(images[:, 0], 8) * weights).sum((1, 2))

    expected = 0.1 + (covariance(4, 0.4) @ weights.flatten()).reshape(6, 6) / 0.4
    spread = {}
    for masks in (16, 144):
        maps = rise_where(monkeypatch, traced(100), probability, RISE(masks=masks, cells=4, keep=0.4))
        spread[masks] = maps.std(0)
        off = (maps.mean(0) - expected) / (spread[masks] / 10)
        # 36 patches, Student's t of 99 degrees: beyond 6 once in a million draws.
        assert off.abs().max() < 6
        assert 0.2 < off.square().mean() < 4
    # The variance falls ninefold; the ratio of two of 99 degrees is beyond 3 of that once in ten million draws.
    ratio = (spread[16].square() / spread[144].square()).mean()
    assert 3 < ratio < 27
    blind = 0.1 + 0.4 * weights.sum()  # were a mask's patches independent of each other
    assert ((maps.mean(0) - blind) / (spread[144] / 10)).abs().max() > 12
