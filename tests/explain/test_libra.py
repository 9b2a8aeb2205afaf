"""LibraGrad under methods of gradients, and methods made of tokens, attention and gradients, each written out."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from explicit import TARGET, Call, Forward, assert_equal, classify, forward
from support import FAMILIES, family_anatomies, images_for, small_vit
from torch import Tensor, nn
from written_out_rules import WrittenRules, relevance, written_rules

from pipeline.explain import UnsupportedMethod, describe, explain, methods

COMMON = ("class token", "mean, fc_norm", "SwiGLU", "attention pool", "distilled", "class token and mean")
KINDS = [
    pytest.param(kind, marks=[] if kind in COMMON else [pytest.mark.soak])
    for kind in sorted(FAMILIES, key=lambda kind: kind not in COMMON)
]


def libra_forward(model: nn.Module, images: Tensor, detach_blocks: bool = False) -> Forward:
    context = partial(written_rules, model, WrittenRules())
    return forward(model, images, detach_blocks=detach_blocks, context=context)


def generic_attention(run: Forward) -> Tensor:
    gradients = run.gradients(TARGET)
    product = torch.eye(run.blocks[0].matrix.shape[-1], dtype=torch.float64)
    for call, gradient in zip(run.blocks, gradients, strict=False):
        product = product + (call.matrix * gradient).relu().mean(1) @ product
    if run.pool is not None:
        return run.read_by_pooler((run.pool.matrix * gradients[-1]).relu().mean(1), product)
    return run.read(product)


def gradcam(run: Forward) -> Tensor:
    (gradient,) = torch.autograd.grad(run.logits[:, TARGET].sum(), run.inputs[-1], retain_graph=True)
    patches = run.anatomy.patch_tokens
    return (run.inputs[-1][:, patches] * gradient[:, patches].mean(1, keepdim=True)).sum(-1).relu()


def attention_gradcam(run: Forward) -> Tensor:
    matrix, gradient = run.calls[-1].matrix, run.gradients(TARGET)[-1]
    if run.pool is None:
        row, slope = run.read(matrix), run.read(gradient)
    else:
        row, slope = matrix[:, :, 0], gradient[:, :, 0]
    return (slope.mean(-1, keepdim=True) * row).mean(1).relu()


def agcam(run: Forward) -> Tensor:
    gradients = run.gradients(TARGET)
    pairs = zip(run.blocks, gradients, strict=False)
    total = sum(run.read(gradient.relu() * call.scores.sigmoid()).sum(1) for call, gradient in pairs)
    if run.pool is not None:
        total = total + (gradients[-1].relu() * run.pool.scores.sigmoid())[:, :, 0].sum(1)
    assert isinstance(total, Tensor)
    return total


FORMULAS: dict[str, Callable[[Forward], Tensor]] = {
    "generic_attention": generic_attention,
    "gradcam": gradcam,
    "attn_gradcam": attention_gradcam,
    "agcam:full_gradient=true": agcam,
}


@pytest.mark.parametrize("kind", KINDS)
def test_methods_of_gradients_take_that_of_libragrad(kind: str) -> None:
    model = small_vit(**FAMILIES[kind])
    images = images_for(model)
    run = libra_forward(model, images)
    for name, formula in FORMULAS.items():
        expected = formula(run).detach()
        if expected.abs().max() > 0:
            assert_equal(model, images, f"{name}:backward=libra", expected)
    plain, libra = explain(model, images, 3, ["gradcam", "gradcam:backward=libra"]).values()
    assert not torch.allclose(plain, libra, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_methods_at_the_image_and_at_single_layers_take_it_too(kind: str) -> None:
    model = small_vit(**FAMILIES[kind])
    images, rules = images_for(model, 2), WrittenRules()
    assert_equal(model, images, "grad_input:backward=libra", relevance(model, images, rules, pixels=False))
    half = relevance(model, images / 2, rules, pixels=True)
    assert_equal(model, images, "integrated_gradients:nodes=1:backward=libra", 2 * half)
    run = libra_forward(model, images, detach_blocks=True)
    total = torch.zeros(())
    for call, output in zip(run.blocks, run.outputs, strict=True):
        tokens = output[:, run.anatomy.read_places]
        calls: list[Call] = []
        with written_rules(model, rules, calls):
            if run.pool is None:
                features = model.norm(tokens.mean(1))
                both = run.anatomy.readout == "token+mean"
                features = torch.cat([features, features], 1) if both else model.fc_norm(features)
            else:
                features = model.fc_norm(model.attn_pool(model.norm(tokens)))
            value = classify(model, features)[:, TARGET].sum()
        matrix = call.matrix if run.pool is None else calls[0].matrix
        (gradient,) = torch.autograd.grad(value, matrix, retain_graph=True)
        total = total + gradient.relu().mean((1, 2)) / len(run.blocks)
    assert_equal(model, images, "legrad:backward=libra", total[:, run.anatomy.patch_tokens])


def full_gradient(model: nn.Module, images: Tensor) -> Tensor:
    """FullGrad+ with the output of every layer that has a bias kept: [B, n]."""
    kept: list[tuple[Tensor, Tensor]] = []
    layers = [layer for block in model.blocks for name, layer in block.named_modules() if "rel_pos" not in name]
    layers += [model.norm, *([model.attn_pool.kv] if describe(model).readout == "pool" else [])]
    handles = [
        layer.register_forward_hook(lambda layer, _, output: kept.append((layer.bias, output)))
        for layer in layers
        if getattr(layer, "bias", None) is not None and isinstance(layer, nn.Linear | nn.LayerNorm)
    ]
    run = libra_forward(model, images)
    for handle in handles:
        handle.remove()
    slope = partial(
        torch.autograd.grad, run.logits[:, TARGET].sum(), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    total = sum((tokens * slope(tokens)[0]).sum(-1) for tokens in run.entries)
    for bias, output in kept:
        if output.ndim == 3:  # norms of queries and keys have no relevance
            total = total + (slope(output)[0] * bias).sum(-1)
    for block, call in zip(model.blocks, run.blocks, strict=True):
        if getattr(block.attn, "v_bias", None) is not None:  # of no layer of its own
            total = total + (slope(call.value)[0].transpose(1, 2).flatten(2) * block.attn.v_bias).sum(-1)
    assert isinstance(total, Tensor)
    return total.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_full_gradient_adds_the_relevance_of_every_layer_and_bias(kind: str) -> None:
    model = small_vit(**FAMILIES[kind], depth=2)
    images = images_for(model, 2)
    expected = full_gradient(model, images)[:, describe(model).patch_tokens]
    assert_equal(model, images, "libra_fullgrad", expected)


def test_methods_by_libragrad_share_its_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vit()
    counted: list[object] = []
    plain = torch.autograd.grad

    def counting(*args: object, **options: object) -> object:
        counted.append(1)
        return plain(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    names = ["cp_lrp", "libra_fullgrad", "grad_input:backward=libra", "gradcam:backward=libra"]
    explain(model, images_for(model), torch.tensor([[1], [2], [3]]), [*names, "token_tm:backward=libra"])
    assert len(counted) == 1


def token_tm(run: Forward) -> Tensor:
    """C as a matrix, changed by every block."""

    def weights(before: Tensor, after: Tensor) -> Tensor:
        cosines = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
        return after.norm(dim=-1) / (before.norm(dim=-1) + 1e-8) * cosines.softmax(-1)

    matrix = torch.diag_embed(run.entries[0].norm(dim=-1))
    stages = zip(run.blocks, run.gradients(TARGET), run.entries, run.middles, run.outputs, strict=True)
    for call, gradient, before, middle, after in stages:
        scaled = call.matrix.mean(1) @ torch.diag_embed(weights(before, middle))
        matrix = matrix + (scaled * gradient.relu().mean(1)) @ matrix
        matrix = matrix + torch.diag_embed(weights(middle, after)) @ matrix
    return run.read(matrix)


POOLED = {name for name, anatomy in family_anatomies().items() if anatomy.readout == "pool"}
WITHOUT_POOLER = [kind for kind in KINDS if kind.values[0] not in POOLED]


@pytest.mark.parametrize("kind", WITHOUT_POOLER)
def test_token_tm_is_the_written_out_product(kind: str) -> None:
    model = small_vit(**FAMILIES[kind])
    images = images_for(model, 2)
    assert_equal(model, images, "token_tm", token_tm(forward(model, images)))
    assert_equal(model, images, "token_tm:backward=libra", token_tm(libra_forward(model, images)))


def test_token_tm_without_gradient_is_the_length_of_tokens_and_nothing_at_a_class_token() -> None:
    for kind, expected in (("class token", 0.0), ("mean", None)):
        model = small_vit(**FAMILIES[kind])
        model.head.weight.data[:] = 0
        images = images_for(model, 1)
        maps = explain(model, images, 0, "token_tm")["token_tm"]
        assert (maps.abs().max() == 0) == (expected == 0.0)


def beyond_intuition(model: nn.Module, images: Tensor, variant: str, start: int, steps: int) -> Tensor:
    """W ⊙ R as matrices, by the paper's definition."""
    run = forward(model, images)
    identity = torch.eye(run.blocks[0].matrix.shape[-1], dtype=torch.float64)
    product = identity.expand(len(images), -1, -1)
    gradients = run.gradients(TARGET)
    for index in range(start - 1, len(run.blocks)):
        call, gradient = run.blocks[index], gradients[index]
        if variant == "head":
            importance = (call.matrix.transpose(-1, -2) @ gradient).abs().mean((2, 3), keepdim=True)
            weighted = (call.matrix * importance / importance.sum(1, keepdim=True)).sum(1)
        else:
            projected = call.value.transpose(1, 2).flatten(2) @ model.blocks[index].attn.proj.weight.T
            lengths = projected.norm(dim=-1) / run.entries[index].norm(dim=-1)
            weighted = call.matrix.mean(1) * lengths[:, None]
        product = product + weighted @ product
    slopes = []
    for step in range(steps):
        part = forward(model, images * step / (steps - 1))
        slopes.append(part.gradients(TARGET)[len(run.blocks) - 1])
    feedback = (sum(slopes) / steps).relu().mean(1)  # type: ignore[union-attr]
    return run.read(feedback * product).detach()


@pytest.mark.parametrize("kind", WITHOUT_POOLER)
@pytest.mark.parametrize("variant", ["head", "token"])
def test_beyond_intuition_is_the_written_out_product(kind: str, variant: str) -> None:
    model = small_vit(**FAMILIES[kind])
    images = images_for(model, 2)
    start = 2 if variant == "token" else 1
    for entry in (
        f"beyond_intuition:variant={variant}:steps=3",
        f"beyond_intuition:variant={variant}:steps=3:start={start}",
    ):
        assert_equal(model, images, entry, beyond_intuition(model, images, variant, start, 3))


def test_start_is_the_authors_fraction_of_the_depth() -> None:
    for depth, head, token in ((2, 1, 2), (4, 2, 3)):
        model = small_vit(depth=depth)
        images = images_for(model, 1)
        for variant, start in (("head", head), ("token", token)):
            maps = explain(
                model, images, 3, [f"beyond_intuition:variant={variant}:steps=2:start={s}" for s in (0, start)]
            )
            first, second = maps.values()
            assert torch.equal(first, second)
            assert first.min() >= 0


def test_what_they_are_not_defined_for_is_refused() -> None:
    pooled, plain = small_vit(**FAMILIES["attention pool"]), small_vit()
    gated, normed = small_vit(), small_vit(scale_attn_norm=True)
    for block in gated.blocks:
        block.attn.gate = nn.Linear(32, 32).double()
    for model, name, message in (
        (pooled, "token_tm", "not defined for an attention pooler"),
        (pooled, "beyond_intuition", "not defined for an attention pooler"),
        (plain, "beyond_intuition:start=4", "there is no block 4"),
        (plain, "beyond_intuition:steps=1", "at least two steps"),
        (gated, "beyond_intuition:variant=token", "gated or normalized; take variant=head"),
        (normed, "beyond_intuition:variant=token", "gated or normalized; take variant=head"),
        (gated, "libra_fullgrad", "no rule for the gate"),
        (gated, "gradcam:backward=libra", "no rule for the gate"),
    ):
        with pytest.raises(UnsupportedMethod, match=message):
            explain(model, images_for(model, 1), 0, name)
    assert "Mehri" in methods["token_tm"]().design
