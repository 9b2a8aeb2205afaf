"""Each method against another computation: closed forms, naive loops, finite differences."""

import sys

import pytest
import torch
from explicit import class_probabilities, forward
from support import FAMILIES, images_for, small_vit
from torch import nn

from pipeline.explain import LeGrad, ReciproCAM, describe, explain, methods
from pipeline.explain.attribution.reciprocam import mask_weights


def test_attention_is_the_class_row_of_the_matrix_that_the_unfused_network_uses() -> None:
    """By another route than ``forward``, which all others take: hooks on the dropout behind the softmax."""
    model = small_vit(reg_tokens=3)
    images, last = images_for(model), model.blocks[-1].attn
    computed = explain(model, images, torch.zeros(3, 1, dtype=torch.int64), ["attention"])["attention"][:, 0]
    matrices: list[torch.Tensor] = []
    last.fused_attn = False
    with torch.no_grad(), last.attn_drop.register_forward_hook(lambda _, __, out: matrices.append(out)):
        model(images)
    last.fused_attn = True
    assert torch.allclose(computed, matrices[0].mean(1)[:, 0, 4:].reshape(-1, 6, 6), rtol=0, atol=1e-14)
    assert torch.allclose(forward(model, images).blocks[-1].matrix, matrices[0], rtol=0, atol=1e-14)


@torch.no_grad()
def test_rollout_is_a_row_of_the_product_of_matrices(family: nn.Module) -> None:
    images = images_for(family)
    run = forward(family, images)
    product = torch.eye(run.blocks[0].matrix.shape[-1], dtype=torch.float64)
    for call in run.blocks:
        product = (0.5 * call.matrix.mean(1) + 0.5 * torch.eye(product.shape[-1])) @ product
    assert torch.allclose(product.sum(-1), torch.ones(1, dtype=torch.float64))
    expected = run.read(product) if run.pool is None else run.read_by_pooler(run.pool.matrix.mean(1), product)
    computed = explain(family, images, torch.zeros(3, 1, dtype=torch.int64), ["rollout"])["rollout"][:, 0]
    assert torch.allclose(computed.flatten(1), expected, rtol=0, atol=1e-14)


def test_rollout_of_uniform_attention_has_its_closed_form() -> None:
    model = small_vit()
    for block in model.blocks:
        block.attn.qkv.weight.data[:64] = 0  # queries and keys
        block.attn.qkv.bias.data[:64] = 0
    computed = explain(model, images_for(model), torch.zeros(3, 1, dtype=torch.int64), ["rollout"])["rollout"]
    assert torch.allclose(computed, torch.full_like(computed, (1 - 2**-3) / 37), rtol=0, atol=1e-15)


def test_legrad_has_its_closed_form_where_block_and_norm_are_linear() -> None:
    """MLP silenced, final norm the identity: the gradient at (h, i, j) is v_hj · W_h w_c / n, for every i."""
    model = small_vit()
    model.norm = nn.Identity()
    for block in model.blocks:
        block.mlp.fc2.weight.data[:] = 0
    images = images_for(model, 1)
    tokens = model._pos_embed(model.patch_embed(images))
    expected = torch.zeros(37, dtype=torch.float64)
    for block in model.blocks:
        value = block.attn.qkv(block.norm1(tokens))[0, :, 64:].reshape(37, 4, 8)
        direction = (model.head.weight[7] @ block.attn.proj.weight).reshape(4, 8)
        expected += torch.einsum("jhd,hd->hj", value, direction).relu().mean(0) / 37 / 3
        tokens = block(tokens)
    computed = explain(model, images, torch.tensor([[7]]), ["legrad"])["legrad"].flatten()
    assert torch.allclose(computed, expected[1:], rtol=1e-10, atol=1e-15)


def test_legrad_of_all_layers_is_the_mean_of_its_parts() -> None:
    """Three blocks are the two first ones and the last; the two first ones are a shorter network."""
    model, targets = small_vit(), torch.tensor([[1], [2], [3]])
    images = images_for(model)
    all_layers, last, last2 = explain(model, images, targets, ["legrad", LeGrad("last1"), LeGrad("last2")]).values()
    model.blocks = model.blocks[:2]
    first2 = explain(model, images, targets, ["legrad"])["legrad"]
    assert torch.allclose(3 * all_layers, 2 * first2 + last, rtol=1e-12, atol=0)
    assert torch.allclose(explain(model, images, targets, [LeGrad("last2")])["legrad_last2"], first2)
    assert not torch.allclose(last2, first2)


def test_legrad_grows_with_the_classifier_and_vanishes_without_it() -> None:
    model, images = small_vit(), images_for(small_vit())
    targets = torch.full((3, 1), 2)
    before = explain(model, images, targets, ["legrad"])["legrad"]
    model.head.weight.data[2] *= 3
    assert torch.allclose(explain(model, images, targets, ["legrad"])["legrad"], 3 * before)
    model.head.weight.data[2] = 0
    assert not explain(model, images, targets, ["legrad"])["legrad"].any()


def naive_reciprocam(model: nn.Module, image: torch.Tensor, kernel: str, block: int = -1) -> torch.Tensor:
    """Logits [N, C]: the whole network run once for each mask, masked by hooks."""
    anatomy = describe(model)
    clean: list[torch.Tensor] = []
    attention = model.blocks[block].attn
    handle = attention.register_forward_pre_hook(lambda _, args: clean.append(args[0]))
    model(image[None])
    handle.remove()
    logits = []
    for row in mask_weights(kernel, anatomy.grid):  # type: ignore[arg-type]
        mask = torch.ones(1, anatomy.patches if anatomy.readout == "pool" else anatomy.tokens, 1, dtype=torch.float64)
        mask[0, anatomy.patch_tokens, 0] = row
        if anatomy.readout == "pool":
            handles = [model.attn_pool.register_forward_pre_hook(lambda _, args, m=mask: (args[0] * m,))]
        else:
            handles = [attention.register_forward_pre_hook(lambda _, args, m=mask: (clean[0] * m, *args[1:]))]
        if "mean" in anatomy.readout:  # the skip connection as well
            masked = model.blocks[block]
            handles.append(masked.register_forward_pre_hook(lambda _, args, m=mask: (args[0] * m, *args[1:])))
        logits.append(model(image[None])[0])
        for handle in handles:
            handle.remove()
    return torch.stack(logits)


@torch.no_grad()
def assert_one_forward_for_each_mask(model: nn.Module, kernel: str) -> None:
    images = images_for(model, 2)
    targets = torch.tensor([[3], [8]])
    names = [f"reciprocam:kernel={kernel}", f"reciprocam:kernel={kernel}:score=logit"]
    probability, logit = explain(model, images, targets, names).values()
    for place, target in enumerate((3, 8)):
        naive = naive_reciprocam(model, images[place], kernel)
        assert torch.allclose(logit[place, 0].flatten(), naive[:, target], rtol=0, atol=1e-12)
        expected = class_probabilities(model, naive)[:, target]
        assert torch.allclose(probability[place, 0].flatten(), expected, rtol=0, atol=1e-13)


def test_reciprocam_equals_one_forward_for_each_mask(family: nn.Module) -> None:
    assert_one_forward_for_each_mask(family, "gaussian")


@pytest.mark.parametrize("kernel", ["peak", "box", "single"])
@pytest.mark.parametrize("kind", ["class token", "q/k norm", "mean", "attention pool"])
def test_reciprocam_of_every_kernel_does_in_each_of_its_forms(kind: str, kernel: str) -> None:
    assert_one_forward_for_each_mask(small_vit(**FAMILIES[kind]), kernel)


@torch.no_grad()
def test_the_authors_code_masks_the_block_before_the_last(family: nn.Module) -> None:
    method = methods.parse("reciprocam:authors_code")
    assert method == ReciproCAM(block=-2)
    if method.refusal(describe(family)):
        pytest.skip("masked in front of the pooler")
    images = images_for(family, 1)
    computed = explain(family, images, torch.tensor([[3]]), method)["reciprocam_block-2"].flatten()
    naive = class_probabilities(family, naive_reciprocam(family, images[0], "gaussian", -2))[:, 3]
    assert torch.allclose(computed, naive, rtol=0, atol=1e-13)
    last = explain(family, images, torch.tensor([[3]]), "reciprocam")["reciprocam"].flatten()
    assert not torch.allclose(computed, last, rtol=0.01)


def test_the_kernel_is_cut_at_the_border_and_not_renormalised() -> None:
    sums = mask_weights("gaussian", (4, 5)).sum(1).reshape(4, 5)
    assert sums[0, 0] == sums[3, 4] == 0.5625
    assert sums[0, 2] == sums[2, 0] == 0.75
    assert sums[1, 1] == sums[2, 3] == 1.0
    assert torch.equal(mask_weights("single", (3, 2)), torch.eye(6, dtype=torch.float64))


def test_reciprocam_is_constant_where_attention_has_no_effect() -> None:
    model = small_vit()
    model.blocks[-1].attn.proj.weight.data[:] = 0
    maps = explain(model, images_for(model), torch.zeros(3, 1, dtype=torch.int64), ["reciprocam"])["reciprocam"]
    assert torch.allclose(maps, maps[:, :, :1, :1].expand_as(maps), rtol=0, atol=1e-15)


@pytest.mark.parametrize("tokens", [1, 100, 10**6])
def test_the_chunk_of_masked_copies_does_not_matter(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vit(**FAMILIES["mean"])
    expected = explain(model, images_for(model), torch.zeros(3, 1, dtype=torch.int64), ["reciprocam"])["reciprocam"]
    monkeypatch.setattr(sys.modules[ReciproCAM.__module__], "_CHUNK_SIZE", tokens)
    computed = explain(model, images_for(model), torch.zeros(3, 1, dtype=torch.int64), ["reciprocam"])["reciprocam"]
    assert torch.allclose(computed, expected, rtol=0, atol=1e-14)


def test_a_flipped_picture_gives_a_flipped_map() -> None:
    """Patch embedding and positions flipped along; the Gaussian is symmetric."""
    model, flipped = small_vit(), small_vit()
    flipped.patch_embed.proj.weight.data = model.patch_embed.proj.weight.data.flip(-1)
    positions = model.pos_embed.data[:, 1:].reshape(1, 6, 6, -1).flip(2).reshape(1, 36, -1)
    flipped.pos_embed.data = torch.cat([model.pos_embed.data[:, :1], positions], 1)
    images, targets = images_for(model), torch.tensor([[1], [2], [3]])
    names = ["attention", "rollout", "legrad", "reciprocam", "center", "edges", "uniform"]
    before = explain(model, images, targets, names)
    after = explain(flipped, images.flip(-1), targets, names)
    for name in names:
        assert torch.allclose(after[name], before[name].flip(-1), rtol=0, atol=1e-12), name


def test_the_random_control_depends_on_key_and_seed_alone() -> None:
    model, images = small_vit(), images_for(small_vit(), 2)
    targets = torch.zeros(2, 1, dtype=torch.int64)

    def noise(seed: int, *keys: str) -> torch.Tensor:
        return explain(model, images, targets, ["random"], keys=keys, seed=seed)["random"]

    assert torch.equal(noise(0, "a", "b"), noise(0, "b", "a").flip(0))
    assert not torch.equal(noise(0, "a", "b"), noise(1, "a", "b"))
    assert not torch.equal(noise(0, "a", "b")[0], noise(0, "a", "b")[1])
    assert 0 <= noise(0, "a", "b").min() <= noise(0, "a", "b").max() < 1
