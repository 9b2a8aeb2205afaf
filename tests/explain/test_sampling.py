"""Methods that show the network samples of the image: RISE, ViT-CX, TiS. Each against itself written out."""

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import FAMILIES, images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import Flag, Method, UnsupportedMethod, describe, explain
from pipeline.explain.methods.rise import Rise
from pipeline.explain.methods.sampling import interpolation
from pipeline.explain.methods.tis import TiS
from pipeline.explain.methods.vit_cx import ViTCX
from pipeline.explain.record import record
from pipeline.explain.seeds import generator
from pipeline.explain.trace import Need, Trace

METHODS = [Rise(masks=16, cells=4), ViTCX(), TiS(masks=16)]
TARGETS = torch.tensor([[1, 4], [2, 2], [0, 9]])
KEYS = ["a", "b", "c"]

DESCRIBED = {kind: describe(small_vit(**options)) for kind, options in FAMILIES.items()}
KINDS = [(kind, method) for kind in FAMILIES for method in METHODS if not method.unsupported(DESCRIBED[kind])]

each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.base)
each_kind = pytest.mark.parametrize(
    ("family", "method"), KINDS, indirect=["family"], ids=[f"{kind}-{method.base}" for kind, method in KINDS]
)


def one(model: nn.Module, images: Tensor, targets: Tensor, method: Method, **options: Any) -> Tensor:
    return explain(model, images, targets, method, **options)[method.name]


def probabilities(model: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return model(image[None]).softmax(-1)[0]


def module_of(method: Method) -> Any:
    return sys.modules[type(method).__module__]


# What holds of all three


@each_kind
def test_a_map_is_finite_and_has_the_shape_of_the_grid(family: nn.Module, method: Method) -> None:
    maps = one(family, images_for(family), TARGETS, method)
    assert maps.shape == (3, 2, *describe(family).grid)
    assert maps.dtype == torch.float64
    assert maps.isfinite().all()
    assert not maps.flatten(2).std(2).eq(0).any()


@each_kind
def test_a_map_does_not_depend_on_its_batch_nor_on_the_other_classes(family: nn.Module, method: Method) -> None:
    images = images_for(family)
    together = one(family, images, TARGETS, method)
    for place in range(3):
        for column in range(2):
            alone = one(family, images[place, None], TARGETS[place, None, column, None], method)
            assert torch.allclose(together[place, column], alone[0, 0], rtol=0, atol=1e-12)
    assert torch.equal(together[1, 0], together[1, 1])


@each_method
@pytest.mark.parametrize("room", [1, 5, 10**6])
def test_the_chunk_does_not_matter(method: Method, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vit()
    expected = one(model, images_for(model), TARGETS, method)
    (name,) = [name for name in vars(module_of(method)) if name.endswith("_AT_ONCE")]
    monkeypatch.setattr(module_of(method), name, room)
    assert torch.allclose(one(model, images_for(model), TARGETS, method), expected, rtol=0, atol=1e-13)


@each_method
def test_what_is_drawn_depends_on_key_and_seed_alone(method: Method) -> None:
    model = small_vit()
    images, targets = images_for(model, 1).expand(2, -1, -1, -1), torch.full((2, 1), 3)

    def maps(seed: int, *keys: str) -> Tensor:
        return one(model, images, targets, method, keys=keys, seed=seed)

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
    double = one(model, images, TARGETS, method, keys=KEYS)
    lower = one(model.float(), images.float(), TARGETS, method, keys=KEYS, precision=precision)
    assert lower.dtype == torch.float32
    assert lower.isfinite().all()
    if precision == "full":
        assert torch.allclose(lower.double(), double, rtol=0, atol=1e-4)


@each_method
def test_an_image_that_is_not_a_number_is_flagged_and_spoils_no_other(method: Method) -> None:
    model = small_vit()
    images = images_for(model)
    expected = one(model, images, TARGETS, method, keys=KEYS)
    images[1, 0, 0, 0] = torch.nan
    maps = explain(model, images, TARGETS, method, keys=KEYS)
    assert maps.flags(method.name).tolist() == [[Flag.OK] * 2, [Flag.NOT_FINITE] * 2, [Flag.OK] * 2]
    assert torch.allclose(maps[method.name][[0, 2]], expected[[0, 2]], rtol=0, atol=1e-12)


def hooks(model: nn.Module) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


@each_method
def test_no_hook_is_left_behind_where_the_network_raises_in_a_sample(method: Method) -> None:
    model = small_vit()
    calls: list[int] = []

    def second_call_raises(*_: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise ZeroDivisionError

    handle = model.blocks[1].register_forward_pre_hook(second_call_raises)
    before = hooks(model)
    with pytest.raises(ZeroDivisionError):
        one(model, images_for(model), TARGETS, method)
    assert hooks(model) == before
    handle.remove()
    assert one(model, images_for(model), TARGETS, method).isfinite().all()


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (Rise(masks=0), "at least one mask"),
        (Rise(cells=0), "one cell"),
        (Rise(keep=0.0), "above 0 and at most 1"),
        (Rise(keep=1.5), "above 0 and at most 1"),
        (ViTCX(distance=-0.1), "cannot be negative"),
        (ViTCX(noise=-1.0), "cannot be negative"),
        (TiS(masks=0), "at least one sample"),
        (TiS(keep=-0.5), "above 0 and at most 1"),
    ],
)
def test_an_option_out_of_range_is_refused(method: Method, says: str) -> None:
    with pytest.raises(UnsupportedMethod, match=says):
        one(small_vit(), images_for(small_vit()), TARGETS, method)


# RISE


def rise_masks(method: Rise, key: str, size: tuple[int, int]) -> list[Tensor]:
    """Masks [H, W], resized and cut out one by one."""
    drawn = generator(method.name, key, 0)
    cell = [-(-side // method.cells) for side in size]
    grids = torch.from_numpy(drawn.random((method.masks, method.cells, method.cells)) < method.keep).double()
    down, across = (drawn.integers(0, side, method.masks) for side in cell)
    up = [(method.cells + 1) * side for side in cell]
    masks = []
    for grid, y, x in zip(grids, down, across, strict=True):
        large = F.interpolate(grid[None, None], size=up, mode="bilinear", align_corners=False)[0, 0]
        masks.append(large[y : y + size[0], x : x + size[1]])
    return masks


@pytest.mark.parametrize("kind", ["class token", "not square", "attention pool", "distilled"])
@pytest.mark.parametrize("cells", [1, 5, 7])
def test_rise_equals_one_forward_for_each_mask(kind: str, cells: int) -> None:
    """Five and seven do not divide the sides."""
    model, method = small_vit(**FAMILIES[kind]), Rise(masks=7, cells=cells, keep=0.3)
    images, anatomy = images_for(model), describe(model)
    found = one(model, images, TARGETS, method, keys=KEYS)
    for place, key in enumerate(KEYS):
        for column, target in enumerate(TARGETS[place]):
            total = torch.zeros(anatomy.input_size, dtype=torch.float64)
            for mask in rise_masks(method, key, anatomy.input_size):
                total += probabilities(model, images[place] * mask)[target] * mask
            expected = F.adaptive_avg_pool2d((total / (7 * 0.3))[None], anatomy.grid)[0]
            assert torch.allclose(found[place, column], expected, rtol=0, atol=1e-13)


def test_rise_with_one_mask_of_ones_is_the_probability() -> None:
    model = small_vit()
    images = images_for(model)
    maps = one(model, images, TARGETS, Rise(masks=1, keep=1.0))
    for place in range(3):
        expected = probabilities(model, images[place])[TARGETS[place]]
        assert torch.allclose(maps[place], expected[:, None, None].expand_as(maps[place]), rtol=0, atol=1e-13)


def traced(count: int) -> Trace:
    """A trace of one white image under so many keys."""
    model = small_vit()
    images = torch.ones(count, 3, 48, 48, dtype=torch.float64)
    return record(model, describe(model), images, Need.LAST, tuple(map(str, range(count))), seed=0)


def rise_where(monkeypatch: pytest.MonkeyPatch, trace: Trace, probability: Any, method: Rise) -> Tensor:
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
    method = Rise(masks=50, keep=0.4)
    found = rise_where(monkeypatch, traced(1), lambda images: torch.full_like(images[:, 0, 0, 0], 0.2), method)[0]
    masks = torch.stack(rise_masks(method, "0", (48, 48)))
    expected = F.avg_pool2d(0.2 * masks.mean(0)[None] / 0.4, 8)[0]
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)


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
        maps = rise_where(monkeypatch, traced(100), probability, Rise(masks=masks, cells=4, keep=0.4))
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


def test_interpolation_keeps_constants_and_is_what_torch_resizes_by() -> None:
    for length, size in ((1, 5), (4, 4), (6, 48), (7, 30)):
        matrix = interpolation(length, size)
        values = torch.randn(length, dtype=torch.float64)
        expected = F.interpolate(values[None, None], size=size, mode="linear", align_corners=False)[0, 0]
        assert torch.allclose(matrix @ values, expected, rtol=0, atol=1e-15)
        assert torch.allclose(matrix.sum(1), torch.ones(size, dtype=torch.float64), rtol=0, atol=1e-15)


# ViT-CX


def feature_maps(model: nn.Module, image: Tensor) -> Tensor:
    """[D, h, w], by the network's parts one after the other."""
    anatomy = describe(model)
    with torch.no_grad():
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        tokens = model.blocks[-1].norm1(tokens)[0, anatomy.prefix_tokens :]
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


def naive_vit_cx(model: nn.Module, image: Tensor, target: int, method: ViTCX, key: str) -> tuple[Tensor, int]:
    """The map [h, w] of one image, and the number of masks."""
    anatomy = describe(model)
    maps = F.interpolate(feature_maps(model, image)[None], size=anatomy.input_size, mode="bilinear")[0]
    maps = torch.stack([unit(values) for values in maps])
    flat = maps.flatten(1) / maps.flatten(1).norm(dim=1, keepdim=True)
    clusters = complete_linkage(1 - flat @ flat.T, method.distance)
    masks = [unit(maps[cluster].sum(0)) for cluster in clusters]
    drawn = generator(method.name, key, 0)
    shown, total = torch.stack(masks).sum(0), torch.zeros_like(maps[0])
    for mask in masks:
        noise = method.noise * torch.from_numpy(drawn.standard_normal(image.shape)) * (1 - mask)
        score = probabilities(model, image * mask + noise) - probabilities(model, image + noise)
        total += (score + probabilities(model, image))[target] * mask
    pixels = torch.where(shown > 0, total / shown, 0.0) / len(masks)
    return F.adaptive_avg_pool2d(pixels[None], anatomy.grid)[0], len(masks)


@pytest.mark.parametrize("kind", ["class token", "registers", "mean, fc_norm", "not square", "attention pool"])
@pytest.mark.parametrize("distance", [0.0, 0.1, 0.2])
def test_vit_cx_equals_itself_written_out(kind: str, distance: float) -> None:
    model, method = small_vit(**FAMILIES[kind]), ViTCX(distance=distance, noise=0.3)
    images = images_for(model, 2)
    found = one(model, images, TARGETS[:2], method, keys=KEYS[:2])
    for place in range(2):
        for column, target in enumerate(TARGETS[place].tolist()):
            expected, masks = naive_vit_cx(model, images[place], target, method, KEYS[place])
            assert torch.allclose(found[place, column], expected, rtol=0, atol=1e-12)
            assert (masks == 32) if distance == 0 else (1 < masks < 32)


@pytest.mark.parametrize("patch", [6, 8])
def test_vit_cx_of_constant_feature_maps_is_the_probability(patch: int) -> None:
    """One mask of ones: all is shown, nothing is noise. With patches of 6 pixels, resizing rounds."""
    model = small_vit(patch_size=patch)
    model.blocks[-1].norm1.weight.data[:] = 0
    images = images_for(model)
    maps = one(model, images, TARGETS, ViTCX())
    for place in range(3):
        expected = probabilities(model, images[place])[TARGETS[place]]
        assert torch.allclose(maps[place], expected[:, None, None].expand_as(maps[place]), rtol=0, atol=1e-14)


def test_vit_cx_takes_a_constant_feature_map_for_a_mask_that_hides_nothing() -> None:
    model, method = small_vit(patch_size=6), ViTCX(distance=0.01)
    model.blocks[-1].norm1.weight.data[:15] = 0  # resized, a cluster's sum of 15 is not everywhere the same number
    images = images_for(model, 1)
    expected, _ = naive_vit_cx(model, images[0], 5, method, "a")
    found = one(model, images, torch.tensor([[5]]), method, keys=["a"])[0, 0]
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_vit_cx_of_one_cluster_is_constant_but_where_the_mask_is_0() -> None:
    """S = s_1 on each pixel but the one where the mask is least, a 64th of its patch."""
    model = small_vit()
    maps = one(model, images_for(model, 1), torch.tensor([[5]]), ViTCX(distance=1.0)).flatten().sort().values
    assert torch.allclose(maps[1:], maps[-1].expand(35), rtol=0, atol=1e-14)
    assert torch.allclose(maps[0], maps[-1] * 63 / 64, rtol=0, atol=1e-14)


def test_vit_cx_of_a_feature_map_that_overflows_is_flagged() -> None:
    model = small_vit()

    def overflow(module: nn.Module, args: Any, output: Tensor) -> None:
        output[:, 7, 3] = torch.inf

    model.blocks[-1].norm1.register_forward_hook(overflow)
    maps = explain(model, images_for(model), TARGETS, ViTCX())
    assert maps.flags("vit_cx").eq(Flag.NOT_FINITE).all()


def test_one_feature_map_is_one_cluster() -> None:
    assert module_of(ViTCX())._labels(torch.tensor([[2.0]]), 0.1) == [0]


# TiS


def naive_k_means(rows: Tensor, first: Tensor) -> Tensor:
    centroids, before = [rows[number] for number in first], None
    while True:
        nearest = [min(range(len(centroids)), key=lambda k, r=row: (r - centroids[k]).norm()) for row in rows]
        if nearest == before:
            return torch.stack(centroids)
        before = nearest
        for k in set(nearest):
            centroids[k] = torch.stack([row for row, label in zip(rows, nearest, strict=True) if label == k]).mean(0)


def naive_tis(model: nn.Module, image: Tensor, target: int, method: TiS, key: str) -> Tensor:
    """The map [h, w] of one image."""
    anatomy = describe(model)
    prefix = anatomy.prefix_tokens
    embedded = tokens = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))
    outputs = []
    for block in model.blocks:
        tokens = block(tokens)
        outputs.append(tokens[0, prefix:].T)
    rows = torch.cat(outputs)
    first = generator(method.name, key, 0).choice(len(rows), min(method.masks, len(rows)), replace=False)
    total, times = torch.zeros(anatomy.patches, dtype=torch.float64), torch.zeros(anatomy.patches)
    for centroid in naive_k_means(rows, torch.from_numpy(first)):
        best = sorted(range(anatomy.patches), key=lambda i, c=centroid: -c[i])
        kept = sorted(best[: max(1, int(method.keep * anatomy.patches))])
        tokens = torch.cat([embedded[:, :prefix], embedded[:, [prefix + i for i in kept]]], 1)
        for block in model.blocks:
            tokens = block(tokens)
        score = model.forward_head(model.norm(tokens)).softmax(-1)[0, target]
        for i in kept:
            total[i] += score
            times[i] += 1
    return torch.where(times > 0, total / times.clamp(min=1), 0).reshape(anatomy.grid)


@pytest.mark.parametrize("kind", [kind for kind, method in KINDS if isinstance(method, TiS)])
@torch.no_grad()
def test_tis_equals_one_forward_for_each_sample(kind: str) -> None:
    model, method = small_vit(**FAMILIES[kind]), TiS(masks=10, keep=0.3)
    images = images_for(model, 1)
    found = one(model, images, TARGETS[:1], method, keys=["a"])
    for column, target in enumerate(TARGETS[0].tolist()):
        expected = naive_tis(model, images[0], target, method, "a")
        assert torch.allclose(found[0, column], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_tis_has_no_more_samples_than_there_are_feature_maps() -> None:
    model, method = small_vit(), TiS(masks=10**6)
    images = images_for(model, 1)
    expected = naive_tis(model, images[0], 5, method, "a")
    found = one(model, images, torch.tensor([[5]]), method, keys=["a"])[0, 0]
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_tis_that_takes_nothing_out_is_the_probability() -> None:
    model = small_vit(reg_tokens=3)
    images = images_for(model)
    maps = one(model, images, TARGETS, TiS(masks=3, keep=1.0))
    for place in range(3):
        expected = probabilities(model, images[place])[TARGETS[place]]
        assert torch.allclose(maps[place], expected[:, None, None].expand_as(maps[place]), rtol=0, atol=1e-12)


def test_tis_is_0_at_a_patch_that_is_never_kept() -> None:
    """One sample of one patch, which is the least that is ever kept."""
    model = small_vit()
    maps = one(model, images_for(model), TARGETS, TiS(masks=1, keep=0.001))
    assert ((maps > 0).sum((2, 3)) == 1).all()
    assert ((maps == 0).sum((2, 3)) == 35).all()


def test_k_means_ends_where_each_centroid_is_the_mean_of_what_is_nearest_to_it() -> None:
    rows = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    far = torch.full((1, 5), 100.0, dtype=torch.float64)
    centroids = module_of(TiS())._k_means(rows, torch.cat([rows[:7], far]))
    nearest = torch.cdist(rows, centroids).argmin(1)
    for k in range(7):
        assert torch.allclose(centroids[k], rows[nearest == k].mean(0), rtol=0, atol=1e-14)
    assert torch.equal(centroids[7], far[0]), "an empty cluster keeps its centroid"


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if DESCRIBED[kind].positions != "absolute"])
def test_tis_refuses_positions_that_belong_to_the_whole_grid(kind: str) -> None:
    model = small_vit(**FAMILIES[kind])
    with pytest.raises(UnsupportedMethod, match=f"its {DESCRIBED[kind].positions} positions belong to the whole grid"):
        one(model, images_for(model), TARGETS, TiS())
