"""Properties of all perturbation methods: RISE, ViT-CX, TiS."""

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sampled import KEYS, TARGETS, compute_maps
from support import images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import RISE, Flag, Method, TiS, UnsupportedMethod, ViTCX, explain
from pipeline.explain.attribution.perturbation import interpolation_matrix

METHODS = [RISE(masks=16, cells=4), ViTCX(), TiS(masks=16)]

each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.base_name)


@each_method
@pytest.mark.parametrize("size", [1, 5, 10**6])
def test_the_chunk_size_does_not_matter(method: Method, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vit()
    expected = compute_maps(model, images_for(model), TARGETS, method)
    module = sys.modules[type(method).__module__]
    monkeypatch.setattr(module, "_CHUNK_SIZE", size)
    assert torch.allclose(compute_maps(model, images_for(model), TARGETS, method), expected, rtol=0, atol=1e-13)


@each_method
def test_what_is_drawn_depends_on_key_and_seed_alone(method: Method) -> None:
    model = small_vit()
    images, targets = images_for(model, 1).expand(2, -1, -1, -1), torch.full((2, 1), 3)

    def maps(seed: int, *keys: str) -> Tensor:
        return compute_maps(model, images, targets, method, keys=keys, seed=seed)

    before = maps(0, "a", "b")
    assert torch.allclose(maps(0, "b", "a").flip(0), before, rtol=0, atol=1e-12)
    assert not torch.allclose(before[0], before[1], rtol=0, atol=1e-6)
    assert not torch.allclose(maps(1, "a", "b"), before, rtol=0, atol=1e-6)


@each_method
@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_single_and_half_precision_stay_near(method: Method, precision: Any) -> None:
    """ViT-CX and TiS cluster, so another rounding could part them for good; on these images none does in single."""
    model = small_vit()
    images = images_for(model)
    double = compute_maps(model, images, TARGETS, method, keys=KEYS)
    lower = compute_maps(model.float(), images.float(), TARGETS, method, keys=KEYS, precision=precision)
    assert lower.dtype == torch.float32
    assert lower.isfinite().all()
    if precision == "full":
        assert torch.allclose(lower.double(), double, rtol=0, atol=1e-4)


@each_method
def test_an_image_that_is_not_a_number_is_flagged_and_spoils_no_other(method: Method) -> None:
    model = small_vit()
    images = images_for(model)
    expected = compute_maps(model, images, TARGETS, method, keys=KEYS)
    images[1, 0, 0, 0] = torch.nan
    maps = explain(model, images, TARGETS, method, keys=KEYS)
    assert maps.flags(method.name).tolist() == [[Flag.OK] * 2, [Flag.NOT_FINITE] * 2, [Flag.OK] * 2]
    assert torch.allclose(maps[method.name][[0, 2]], expected[[0, 2]], rtol=0, atol=1e-12)


def hooks(model: nn.Module) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


@each_method
def test_no_hook_is_left_behind_where_the_network_raises_in_a_sample(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_vit()
    calls: list[int] = []
    mlp, plain = model.blocks[1].mlp, type(model.blocks[1].mlp).forward

    def second_call_raises(module: nn.Module, tokens: Tensor) -> Tensor:
        calls.extend([1] if module is mlp else [])
        if len(calls) > 1:
            raise ZeroDivisionError
        return plain(module, tokens)

    before = hooks(model)
    with monkeypatch.context() as patched:
        patched.setattr(type(mlp), "forward", second_call_raises)
        with pytest.raises(ZeroDivisionError):
            compute_maps(model, images_for(model), TARGETS, method)
    assert hooks(model) == before
    assert compute_maps(model, images_for(model), TARGETS, method).isfinite().all()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (RISE(masks=0), "at least one mask"),
        (RISE(cells=0), "one cell"),
        (RISE(keep=0.0), "above 0 and at most 1"),
        (RISE(keep=1.5), "above 0 and at most 1"),
        (ViTCX(distance=-0.1), "cannot be negative"),
        (ViTCX(noise=-1.0), "cannot be negative"),
        (TiS(masks=0), "at least one sample"),
        (TiS(keep=-0.5), "above 0 and at most 1"),
    ],
)
def test_an_option_out_of_range_is_refused(method: Method, message: str) -> None:
    with pytest.raises(UnsupportedMethod, match=message):
        compute_maps(small_vit(), images_for(small_vit()), TARGETS, method)


def test_interpolation_keeps_constants_and_is_what_torch_resizes_by() -> None:
    for length, size in ((1, 5), (4, 4), (6, 48), (7, 30)):
        matrix = interpolation_matrix(length, size)
        values = torch.randn(length, dtype=torch.float64)
        expected = F.interpolate(values[None, None], size=size, mode="linear", align_corners=False)[0, 0]
        assert torch.allclose(matrix @ values, expected, rtol=0, atol=1e-15)
        assert torch.allclose(matrix.sum(1), torch.ones(size, dtype=torch.float64), rtol=0, atol=1e-15)
