"""Methods that take gradients, each against its definition on the network with attention written out."""

import pytest
import torch
import torch.nn.functional as F
from explicit import Call, classify, forward, written_out
from support import FAMILIES, images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import AGCAM, IntegratedGradients, LeGrad, SmoothGrad, describe, explain, methods
from pipeline.explain.maps import Explainer
from pipeline.explain.methods import transformer_attribution
from pipeline.explain.record import record
from pipeline.explain.trace import Linear, Need
from pipeline.explain.undisturbed import undisturbed

TARGET = 4


def found(model: nn.Module, images: Tensor, method: object) -> Tensor:
    """Map [B, h, w] of a method for the one target of this file."""
    ((_, maps),) = explain(model, images, torch.full((len(images), 1), TARGET), method).items()
    return maps[:, 0]


def assert_equal(model: nn.Module, images: Tensor, method: object, expected: Tensor) -> None:
    maps = found(model, images, method)
    assert (maps - expected.reshape(maps.shape)).abs().max() <= 1e-10 * expected.abs().max()
    assert expected.abs().max() > 0


def test_generic_attention_is_the_written_out_product(family: nn.Module) -> None:
    images = images_for(family)
    run = forward(family, images)
    gradients = run.gradients(TARGET)
    product = torch.eye(run.blocks[0].matrix.shape[-1], dtype=torch.float64)
    for call, gradient in zip(run.blocks, gradients, strict=False):
        product = product + (call.matrix * gradient).relu().mean(1) @ product
    if run.pool is not None:
        expected = ((run.pool.matrix * gradients[-1]).relu().mean(1) @ product)[:, 0]
    else:
        expected = run.read(product)
    assert_equal(family, images, "generic_attention", expected)


def test_gradcam_weighs_the_last_tokens_by_their_mean_gradient(family: nn.Module) -> None:
    images = images_for(family)
    run = forward(family, images)
    (gradient,) = torch.autograd.grad(run.logits[:, TARGET].sum(), run.inputs[-1])
    prefix = run.anatomy.prefix_tokens
    expected = (run.inputs[-1][:, prefix:] * gradient[:, prefix:].mean(1, keepdim=True)).sum(-1).relu()
    assert_equal(family, images, "gradcam", expected)


def test_attention_gradcam_weighs_the_last_heads_by_their_mean_gradient(family: nn.Module) -> None:
    images = images_for(family)
    run = forward(family, images)
    matrix, gradient = run.calls[-1].matrix, run.gradients(TARGET)[-1]
    if run.pool is None:
        row, slope = run.read(matrix), run.read(gradient)
    else:
        row, slope = matrix[:, :, 0], gradient[:, :, 0]
    expected = (slope.mean(-1, keepdim=True) * row).mean(1).relu()
    assert_equal(family, images, "attn_gradcam", expected)


@pytest.mark.parametrize("full_gradient", [False, True], ids=["detached", "full"])
def test_agcam_is_the_written_out_sum(family: nn.Module, full_gradient: bool) -> None:
    images = images_for(family)
    run = forward(family, images, detach_attention=not full_gradient)
    gradients = run.gradients(TARGET)
    expected = sum(
        run.read(gradient.relu() * call.scores.sigmoid()).sum(1)
        for call, gradient in zip(run.blocks, gradients, strict=False)
    )
    if run.pool is not None:
        expected = expected + (gradients[-1].relu() * run.pool.scores.sigmoid())[:, :, 0].sum(1)
    assert_equal(family, images, AGCAM(full_gradient=full_gradient), expected)


@pytest.mark.parametrize("score", ["logit", "cosine"])
def test_legrad_is_the_mean_of_the_positive_gradients_of_every_layer(family: nn.Module, score: str) -> None:
    images = images_for(family)
    run = forward(family, images, detach_blocks=True)
    total = torch.zeros(())
    for call, tokens in zip(run.blocks, run.outputs, strict=True):
        matrix = call.matrix
        if run.pool is None:
            features = family.fc_norm(family.norm(tokens.mean(1)))
        else:
            pools: list[Call] = []
            with written_out(pools):
                features = family.fc_norm(family.attn_pool(family.norm(tokens)))
            matrix = pools[0].matrix
        if score == "logit":
            value = classify(family, features)[:, TARGET]
        else:
            heads = [head for head in (family.head, getattr(family, "head_dist", None)) if head is not None]
            value = sum(F.cosine_similarity(features, head.weight[TARGET], dim=-1) for head in heads) / len(heads)
        (gradient,) = torch.autograd.grad(value.sum(), matrix, retain_graph=True)
        total = total + gradient.relu().mean((1, 2)) / len(run.blocks)
    assert_equal(family, images, LeGrad(score=score), total[:, run.anatomy.prefix_tokens :])  # type: ignore[arg-type]


def test_grad_input_is_summed_over_each_patch(family: nn.Module) -> None:
    images = images_for(family).requires_grad_()
    (gradient,) = torch.autograd.grad(family(images)[:, TARGET].sum(), images)
    rows, columns = describe(family).grid
    pieces = (images * gradient).detach().reshape(3, 3, rows, 8, columns, 8)
    assert_equal(family, images, "grad_input", pieces.sum((1, 3, 5)))


def test_the_gradient_to_attention_agrees_with_finite_differences() -> None:
    """One entry of one matrix is moved; the logit follows as the trace says."""
    model = small_vit()
    images = images_for(model, 1)
    anatomy = describe(model)
    targets = torch.tensor([[TARGET]])
    with undisturbed(model):
        trace = record(model, anatomy, images, Need.TO_ATTENTION, ("a",), 0)
        slopes = [trace.site(b).attention.gradient(trace.gradients(targets).of_block(b)) for b in range(3)]
    step = 1e-6
    for block, (head, query, key) in [(0, (1, 5, 9)), (1, (3, 0, 2)), (2, (2, 0, 7))]:

        def moved(by: float, block: int = block, entry: tuple[int, ...] = (head, query, key)) -> float:
            count = 0

            def attention(q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
                nonlocal count
                matrix = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
                if count == block:
                    matrix[(0, *entry)] += by
                count += 1
                return matrix @ v

            with pytest.MonkeyPatch.context() as patch, torch.no_grad():
                patch.setattr(F, "scaled_dot_product_attention", attention)
                return model(images)[0, TARGET].item()

        difference = (moved(step) - moved(-step)) / (2 * step)
        assert slopes[block][0, head, query, key].item() == pytest.approx(difference, abs=1e-8)


def test_integrated_gradients_are_complete(family: nn.Module) -> None:
    """They sum to the difference from the grey image, the better the more nodes; the figure says how well."""
    images = images_for(family)
    targets = torch.full((3, 1), TARGET)
    with torch.no_grad():
        difference = (family(images) - family(torch.zeros_like(images)))[:, TARGET]
    errors = []
    for nodes in (2, 200):
        maps = explain(family, images, targets, IntegratedGradients(nodes=nodes))
        ((name, values),) = maps.items()
        missed = (values.sum((2, 3))[:, 0] - difference).abs() / difference.abs()
        assert torch.allclose(maps.figures[f"{name}_completeness"][:, 0], missed, rtol=1e-6, atol=1e-9)
        errors.append(missed.max())
    assert errors[1] < 0.02
    assert errors[1] < errors[0]


def test_integrated_gradients_of_a_linear_network_need_one_node() -> None:
    """Attention, norms and MLP silenced: the logit is linear in the image."""
    model = small_vit(class_token=False, global_pool="avg", fc_norm=False)
    model.norm = nn.Identity()
    for block in model.blocks:
        block.attn.proj.weight.data[:] = 0
        block.mlp.fc2.weight.data[:] = 0
    images = images_for(model)
    one, many = (found(model, images, IntegratedGradients(nodes=nodes)) for nodes in (1, 20))
    assert torch.allclose(one, many, rtol=1e-12, atol=1e-14)
    assert torch.allclose(one, found(model, images, "grad_input"), rtol=1e-12, atol=1e-14)


def test_smoothgrad_without_noise_is_the_size_of_the_gradient() -> None:
    model = small_vit()
    images = images_for(model).requires_grad_()
    (gradient,) = torch.autograd.grad(model(images)[:, TARGET].sum(), images)
    expected = gradient.abs().reshape(3, 3, 6, 8, 6, 8).sum((1, 3, 5))
    assert_equal(model, images, SmoothGrad(samples=2, noise=0.0), expected)


def test_smoothgrad_draws_by_key_class_and_seed_alone() -> None:
    model, method = small_vit(), SmoothGrad(samples=2)
    images = images_for(model, 2)

    def maps(targets: list[int], keys: list[str], seed: int = 0) -> Tensor:
        rows = torch.tensor(targets)[:, None]
        return explain(model, images, rows, method, keys=keys, seed=seed)[method.name]

    first = maps([1, 2], ["a", "b"])
    alone = explain(model, images[1:], torch.tensor([[2]]), method, keys=["b"])[method.name]
    assert torch.allclose(first[1], alone[0], rtol=1e-12, atol=0)
    assert not torch.allclose(first[1], maps([1, 2], ["a", "c"])[1])
    assert not torch.allclose(first, maps([1, 2], ["a", "b"], seed=1))


def frozen(model: nn.Module, images: Tensor) -> Tensor:
    """Relevance of every patch without any gradient.

    With attention, deviations and gates held where they are, the logit is affine in the patch embedding;
    so a patch's share is what the logit loses when its embedding is zeroed.
    """
    memory: list[Tensor] = []
    replay: list[Tensor] = []

    def constant(value: Tensor) -> Tensor:
        if not replay:
            memory.append(value)
            return value
        held = replay.pop(0)
        return held.expand(value.shape) if held.shape != value.shape else held

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **_: object) -> Tensor:
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return constant((scores if attn_mask is None else scores + attn_mask).softmax(-1)) @ v

    def norm(x: Tensor, shape: object, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / constant((centred.square().mean(-1, keepdim=True) + eps).sqrt())
        return scaled * (1 if weight is None else weight) + (0 if bias is None else bias)

    gelu_of = F.gelu

    def gelu(x: Tensor, approximate: str = "none") -> Tensor:
        gate = constant(torch.where(x == 0, 0.5, gelu_of(x, approximate=approximate) / x))
        return x * gate

    zeroed: list[int] = []

    def embed(_: nn.Module, __: object, output: Tensor) -> Tensor:
        flat = output.clone().reshape(len(output), -1, output.shape[-1])
        flat[:, zeroed] = 0
        return flat.reshape(output.shape)

    handle = model.patch_embed.register_forward_hook(embed)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(F, "scaled_dot_product_attention", attention)
        patch.setattr(F, "layer_norm", norm)
        patch.setattr(F, "gelu", gelu)
        whole = model(images)[:, TARGET]
        shares = []
        for patch_index in range(describe(model).patches):
            zeroed[:], replay[:] = [patch_index], memory
            shares.append(whole - model(images)[:, TARGET])
            assert not replay
    handle.remove()
    return torch.stack(shares, 1)


CONSERVING = [
    name for name, options in FAMILIES.items() if not methods["cp_lrp"]().unsupported(describe(small_vit(**options)))
]


@pytest.mark.parametrize("kind", CONSERVING)
def test_cp_lrp_is_what_the_frozen_network_loses_without_a_patch(kind: str) -> None:
    model = small_vit(**FAMILIES[kind])
    images = images_for(model, 1)
    assert_equal(model, images, "cp_lrp", frozen(model, images))


def test_cp_lrp_conserves_the_logit_where_there_are_no_biases() -> None:
    """Without bias the logit is linear in embedding, class token and positions together."""
    model = small_vit(class_token=False, global_pool="avg")
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.data[:] = 0
    model.pos_embed.data[:] = 0
    images = images_for(model)
    with torch.no_grad():
        logits = model(images)[:, TARGET]
    assert torch.allclose(found(model, images, "cp_lrp").sum((1, 2)), logits, rtol=1e-12, atol=1e-13)
    leaking = small_vit(class_token=False, global_pool="avg")
    with torch.no_grad():
        logits = leaking(images)[:, TARGET]
    assert not torch.allclose(found(leaking, images, "cp_lrp").sum((1, 2)), logits, rtol=1e-2)


@pytest.mark.parametrize("kind", ["class token", "registers", "layer scale", "q/k norm", "not square", "norm in front"])
def test_transformer_attribution_hands_all_relevance_on(kind: str) -> None:
    """Every rule conserves: what starts as one at the class arrives as one at the input of each block."""
    model = small_vit(**FAMILIES[kind])
    method = methods["transformer_attribution"]()
    anatomy = describe(model)
    targets = torch.full((3, 1), TARGET)
    with undisturbed(model), torch.no_grad():
        trace = record(model, anatomy, images_for(model), method.needs(anatomy), ("a", "b", "c"), 0)
        relevance = transformer_attribution._of_class_token(trace, targets)
        for block in (2, 1):
            assert torch.allclose(relevance.sum((1, 2)), torch.ones(3, dtype=torch.float64), atol=1e-6)
            of_attention, relevance = transformer_attribution._through_block(trace, block, relevance)
            assert of_attention.shape[2] == (1 if block == 2 else relevance.shape[1])
    assert relevance.abs().sum() > 0


def test_the_z_plus_rule_is_the_one_with_products_written_out() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(7, 5).double().requires_grad_(False)
    tokens, relevance = torch.randn(2, 3, 7, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    products = (tokens[..., None, :] * layer.weight).relu()  # [2, 3, out, in]
    shares = (products / products.sum(-1, keepdim=True)).nan_to_num(0)  # a unit without any has none to share
    expected = (shares * relevance[..., None]).sum(-2)
    given = transformer_attribution._through_linear(Linear(layer, tokens, layer(tokens)), relevance)
    assert torch.allclose(given, expected, rtol=1e-6, atol=1e-6)


def test_the_methods_share_one_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vit()
    sharing = ["generic_attention", "gradcam", "attn_gradcam", "grad_input", AGCAM(full_gradient=True)]
    counted: list[object] = []
    plain = torch.autograd.grad

    def counting(*args: object, **options: object) -> object:
        counted.append(1)
        return plain(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    explain(model, images_for(model), torch.tensor([[1], [2], [3]]), sharing)
    assert len(counted) == 1


def test_one_forward_serves_all_that_need_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vit()
    several = [m for name, m in methods.items() if m.usual]
    forwards: list[object] = []
    handle = model.patch_embed.register_forward_hook(lambda *_: forwards.append(1))
    explain(model, images_for(model), torch.tensor([[1], [2], [3]]), [method() for method in several])
    handle.remove()
    assert len(forwards) == 1


def test_nothing_is_recorded_that_no_method_asked_for() -> None:
    model = small_vit()
    anatomy = describe(model)
    with undisturbed(model):
        trace = record(model, anatomy, images_for(model), Need.LAST, ("a", "b", "c"), 0)
    assert trace.blocks[:-1] == [None, None]
    assert trace.inputs[:-1] == [None, None]
    assert not trace.logits.requires_grad
    assert not trace.last.attention.output.requires_grad
    assert Explainer(model, anatomy, (methods["attention"](),), 0).need == Need.LAST
