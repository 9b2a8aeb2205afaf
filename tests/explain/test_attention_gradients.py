"""Methods that take gradients to attention, each against its definition on the network with attention written out."""

import pytest
import torch
import torch.nn.functional as F
from explicit import TARGET, Call, assert_equal, classify, forward, written_out
from support import images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import AGCAM, LeGrad, describe, explain, methods
from pipeline.explain.capture import Capture
from pipeline.explain.explainer import Explainer
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.trace import record_forward


def test_generic_attention_is_the_written_out_product(family: nn.Module) -> None:
    images = images_for(family)
    run = forward(family, images)
    gradients = run.gradients(TARGET)
    product = torch.eye(run.blocks[0].matrix.shape[-1], dtype=torch.float64)
    for call, gradient in zip(run.blocks, gradients, strict=False):
        product = product + (call.matrix * gradient).relu().mean(1) @ product
    if run.pool is not None:
        expected = run.read_by_pooler((run.pool.matrix * gradients[-1]).relu().mean(1), product)
    else:
        expected = run.read(product)
    assert_equal(family, images, "generic_attention", expected)


def test_gradcam_weighs_the_last_tokens_by_their_mean_gradient(family: nn.Module) -> None:
    images = images_for(family)
    run = forward(family, images)
    (gradient,) = torch.autograd.grad(run.logits[:, TARGET].sum(), run.inputs[-1])
    patches = run.anatomy.patch_tokens
    expected = (run.inputs[-1][:, patches] * gradient[:, patches].mean(1, keepdim=True)).sum(-1).relu()
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
    for call, output in zip(run.blocks, run.outputs, strict=True):
        tokens = output[:, run.anatomy.read_places]
        matrix = call.matrix
        if run.pool is None:
            features = family.norm(tokens.mean(1))
            both = run.anatomy.readout == "token+mean"
            features = torch.cat([features, features], 1) if both else family.fc_norm(features)
        else:
            pools: list[Call] = []
            with written_out(pools):
                features = family.fc_norm(family.attn_pool(family.norm(tokens)))
            matrix = pools[0].matrix
        if score == "logit":
            value = classify(family, features)[:, TARGET]
        else:
            heads = [head for head in (family.head, getattr(family, "head_dist", None)) if head is not None]
            pairs = [(features, head.weight[TARGET]) for head in heads if hasattr(head, "weight")]
            pairs = pairs or [(family.head.projection(features), family.head.text[TARGET])]
            value = sum(F.cosine_similarity(left, right, dim=-1) for left, right in pairs) / len(pairs)
        (gradient,) = torch.autograd.grad(value.sum(), matrix, retain_graph=True)
        total = total + gradient.relu().mean((1, 2)) / len(run.blocks)
    assert_equal(family, images, LeGrad(score=score), total[:, run.anatomy.patch_tokens])  # type: ignore[arg-type]


def test_the_gradient_to_attention_agrees_with_finite_differences() -> None:
    """One entry of one matrix is moved; the logit follows as the trace says."""
    model = small_vit()
    images = images_for(model, 1)
    anatomy = describe(model)
    targets = torch.tensor([[TARGET]])
    with preserve_model_state(model):
        trace = record_forward(model, anatomy, images, Capture.ATTENTION_GRADIENTS, ("a",), 0)
        slopes = [trace.attention(b).gradient(trace.gradients(targets).of_block(b)) for b in range(3)]
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
    forwards: list[object] = []
    plain = type(model.patch_embed).forward

    def counting(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
        forwards.append(1)
        return plain(module, images)

    monkeypatch.setattr(type(model.patch_embed), "forward", counting)
    explain(model, images_for(model), torch.tensor([[1], [2], [3]]), methods.defaults(describe(model)))
    assert len(forwards) == 1


def test_the_mean_attention_is_the_same_whether_it_is_computed_in_the_forward_or_afterwards() -> None:
    model, targets = small_vit().float(), torch.tensor([[1], [2], [3]])
    images = images_for(model).float()
    alone = explain(model, images, targets, "rollout")
    for other in ("generic_attention", "legrad:layers=last2", "grad_input"):
        assert torch.equal(explain(model, images, targets, ["rollout", other])["rollout"], alone["rollout"]), other


def test_only_the_mean_attention_is_kept_of_blocks_where_no_method_needs_more() -> None:
    model = small_vit()
    anatomy, images = describe(model), images_for(model)
    with preserve_model_state(model):
        trace = record_forward(model, anatomy, images, Capture.MEAN_ATTENTION, ("a", "b", "c"), 0)
        kept = record_forward(model, anatomy, images, Capture.ATTENTION, ("a", "b", "c"), 0)
    assert trace.attention_calls[:-1] == [None, None]
    for block in range(3):
        assert torch.equal(trace.mean_attention(block), kept.attention(block).mean_probabilities())
        expected = kept.attention(block).probabilities().mean(1)
        torch.testing.assert_close(trace.mean_attention(block), expected, rtol=0, atol=1e-15)


def test_nothing_is_recorded_that_no_method_asked_for() -> None:
    model = small_vit()
    anatomy = describe(model)
    with preserve_model_state(model):
        trace = record_forward(model, anatomy, images_for(model), Capture.LAST_BLOCK, ("a", "b", "c"), 0)
    assert trace.attention_calls[:-1] == [None, None]
    assert trace.block_inputs[:-1] == [None, None]
    assert not trace.logits.requires_grad
    assert not trace.last_attention.output.requires_grad
    assert Explainer(model, anatomy, (methods["attention"](),), 0).capture == Capture.LAST_BLOCK
