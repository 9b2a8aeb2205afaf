"""Unusual arguments and states of the model: autocast, threads, training mode, wrong shapes."""

import threading
from collections.abc import Callable

import pytest
import timm
import torch
from explicit import assert_equal, forward
from support import images_for, small_vit
from torch import nn
from written_out_rules import WrittenRules, relevance

from pipeline.explain import (
    AGCAM,
    IntegratedGradients,
    LeGrad,
    Method,
    ReciproCAM,
    SmoothGrad,
    UnsupportedMethod,
    UnsupportedModel,
    ViTCX,
    describe,
    explain,
    methods,
)
from pipeline.explain.weights_hash import weights_hash
from schemas.errors import UsageError

ONE = torch.tensor([[3]])
USUAL = [method.name for method in methods.defaults(describe(small_vit()))]


def test_pixels_beyond_the_last_patch_count_nothing() -> None:
    """50 pixels hold six patches of 8; timm's patch embedding drops the last two pixels, and so do the maps."""
    model = small_vit(img_size=50)
    images = images_for(model, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(model(images)[:, 3].sum(), images)
    maps = explain(model, images, ONE, ["grad_input", IntegratedGradients(nodes=100)])
    expected = (images * gradient).detach()[..., :48, :48].reshape(1, 3, 6, 8, 6, 8).sum((1, 3, 5))
    assert torch.allclose(maps["grad_input"][:, 0], expected, rtol=1e-10, atol=1e-12)
    assert maps.extra_outputs["integrated_gradients_nodes100_completeness"].item() < 0.02
    assert describe(model).patch == (8, 8)


def test_a_network_with_counters_among_its_weights_has_a_hash() -> None:
    model = timm.create_model("vit_tiny_r_s16_p8_224", num_classes=3)
    model.register_buffer("counter", torch.tensor(3))
    assert weights_hash(model).startswith("sha256:")
    assert describe(model).patch == (32, 32)  # of the pixels that its stem makes one of


def test_autocast_of_the_caller_does_not_reach_the_maps() -> None:
    model = small_vit().float()
    images = images_for(model, 2).float()
    targets = torch.tensor([[1], [2]])
    expected = explain(model, images, targets, USUAL)
    with torch.autocast("cpu", torch.bfloat16):
        computed = explain(model, images, targets, USUAL)
    for name, maps in expected.items():
        assert torch.equal(computed[name], maps), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_network_in_halves_gives_maps_in_float32(dtype: torch.dtype) -> None:
    model = small_vit().to(dtype)
    maps = explain(model, images_for(model, 2).to(dtype), torch.tensor([[1], [2]]), USUAL)
    for name, values in maps.items():
        assert values.dtype == torch.float32, name
        assert values.isfinite().all(), name


def test_one_number_is_the_target_of_every_image() -> None:
    model = small_vit()
    expected = explain(model, images_for(model), ONE.expand(3, 1), USUAL)
    for name, maps in explain(model, images_for(model), 3, USUAL).items():
        assert torch.equal(maps, expected[name]), name


def test_targets_of_inference_mode_are_as_good_as_any() -> None:
    model = small_vit()
    with torch.inference_mode():
        targets = model(images_for(model)).argmax(1, keepdim=True)
    expected = explain(model, images_for(model), torch.tensor(targets.tolist()), USUAL)
    for name, maps in explain(model, images_for(model), targets, USUAL).items():
        assert torch.equal(maps, expected[name]), name


def test_gradient_checkpointing_changes_nothing_and_stays_on() -> None:
    model = small_vit()
    expected = explain(model, images_for(model, 1), ONE, USUAL)
    model.set_grad_checkpointing(True)
    computed = explain(model, images_for(model, 1), ONE, USUAL)
    assert model.grad_checkpointing
    assert all(torch.equal(computed[name], expected[name]) for name in expected)


def test_agcam_detaches_what_a_gate_reads_too() -> None:
    model = small_vit()
    for block in model.blocks:
        block.attn.gate = nn.Linear(32, 32).double()
    images = images_for(model)
    run = forward(model, images, detach_attention=True)
    expected = sum(
        run.read(gradient.relu() * call.scores.sigmoid()).sum(1)
        for call, gradient in zip(run.blocks, run.gradients(3), strict=True)
    )
    computed = explain(model, images, ONE.expand(3, 1), "agcam")["agcam"].flatten(1)
    assert torch.allclose(computed, expected, rtol=1e-10, atol=1e-12)
    refusals = {"transformer_attribution": "do not cover gated Attention", "cp_lrp": "no rule for the gate"}
    for name, message in refusals.items():
        with pytest.raises(UnsupportedMethod, match=message):
            explain(model, images, ONE.expand(3, 1), name)


def test_a_new_classifier_counts_by_its_own_outputs() -> None:
    model = small_vit()
    model.head = nn.Linear(32, 5).double()
    assert describe(model).classes == 5
    with pytest.raises(UsageError, match="outside of 0 … 4"):
        explain(model, images_for(model, 1), torch.tensor([[7]]), "legrad")
    for entry in (LeGrad(score="cosine"), "transformer_attribution"):
        model.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 10)).double()
        with pytest.raises(UnsupportedMethod, match="Sequential"):
            explain(model, images_for(model, 1), ONE, entry)
    model.head = nn.Identity()
    with pytest.raises(UnsupportedModel, match="no classifier"):
        describe(model)


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 4)),
        nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 16), nn.ReLU(inplace=True), nn.Linear(16, 4)),
        nn.Sequential(nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, 8), nn.GELU()), nn.Linear(8, 4), nn.Identity()),
    ],
    ids=["dropout", "norm and ReLU", "batch norm, nested"],
)
def test_a_head_of_several_layers_counts_by_the_last_and_is_applied_as_a_whole(head: nn.Sequential) -> None:
    model = small_vit()
    model.head = head.double().eval()  # num_classes is still 10
    for layer in model.head.modules():
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.normal_(layer.running_mean)
    images = images_for(model)
    assert describe(model).classes == 4
    with pytest.raises(UsageError, match="outside of 0 … 3"):
        explain(model, images, 4, "attention")
    maps = explain(model, images, 3, [name for name in USUAL if name not in ("transformer_attribution", "cp_lrp")])
    assert all(values.isfinite().all() for values in maps.values())
    tokens = model.norm(forward(model, images).outputs[-1])[:, 1:]
    each = torch.stack([model.head(tokens[:, place])[:, 3] for place in range(36)], 1)
    assert torch.allclose(maps["pm_zs"].flatten(1), each.sigmoid(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Linear(32, 10), nn.Softmax(-1)),
        nn.Sequential(nn.Linear(32, 10), nn.Tanh()),
        nn.Sequential(),
        nn.Sequential(nn.Unflatten(1, (32, 1)), nn.Flatten(), nn.Linear(32, 10)),
        nn.Bilinear(32, 32, 10),
    ],
    ids=["softmax", "tanh", "nothing", "another layer", "another class"],
)
def test_a_head_that_gives_no_logits_of_one_token_is_refused(head: nn.Module) -> None:
    model = small_vit()
    model.head = head.double()
    with pytest.raises(UnsupportedModel, match=r"(its head|head|head\.\d) (is|does)"):
        describe(model)


def test_relevance_goes_through_a_head_of_several_layers() -> None:
    model = small_vit()
    model.head = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 10)).double()
    images = images_for(model, 1)
    assert_equal(model, images, "cp_lrp", relevance(model, images, WrittenRules(), pixels=False))


def test_a_network_of_other_channels_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="takes 4 channels"):
        describe(small_vit(in_chans=4))


def test_attention_that_is_not_fused_is_said_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vit()
    monkeypatch.setattr(type(model.blocks[1].attn), "forward", lambda module, x, **_: x)
    for _ in range(2):
        with pytest.raises(UnsupportedModel, match="other means than fused attention"):
            explain(model, images_for(model, 1), ONE, "attention")
    assert len(model.blocks[0].attn._forward_hooks) == 0


def test_two_threads_with_one_network_take_turns() -> None:
    model, images = small_vit().train(), images_for(small_vit(), 2)
    targets = torch.tensor([[1], [2]])
    expected = explain(model, images, targets, ["legrad", "generic_attention"])
    wrong: list[object] = []

    def work() -> None:
        try:
            for _ in range(4):
                computed = explain(model, images, targets, ["legrad", "generic_attention"])
                wrong.extend(name for name in computed if not torch.equal(computed[name], expected[name]))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReciproCAM(score="foo"), "score is 'foo'; it can be softmax, logit"),  # type: ignore[arg-type]
        (lambda: LeGrad("last0"), "layers is 'last0'; it can be all, last1"),  # type: ignore[arg-type]
        (lambda: AGCAM(full_gradient="no"), "full_gradient is 'no'; it can be True or False"),  # type: ignore[arg-type]
        (lambda: IntegratedGradients(nodes=2.0), "nodes is 2.0; it can be a whole number"),  # type: ignore[arg-type]
        (lambda: ViTCX(noise=float("inf")), "noise is inf; it can be a finite number"),
        (lambda: methods.parse("smoothgrad:noise=nan"), "noise is nan; it can be a finite number"),
    ],
)
def test_an_option_of_another_kind_is_refused(make: Callable[[], Method], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(1, 3, 48, 48)}, "images are torch.float32 on cpu; the model takes torch.float64"),
        ({"images": torch.zeros(1, 3, 48, 48, dtype=torch.uint8)}, "images are torch.uint8"),
        ({"precision": "fp16"}, "precision is 'fp16'; it can be full, bfloat16, float16"),
        ({"precision": "bfloat16"}, "is for models in float32"),
        ({"images": [[0.0]]}, "images are of type list; they must be a tensor"),
        ({"targets": None}, r"targets are of type NoneType; they must be an int64 tensor \[1, K\]"),
        ({"targets": [[3]]}, "targets are of type list"),
        ({"targets": True}, "targets are of type bool"),
        ({"targets": 10}, "outside of 0 … 9"),
        ({"targets": -1}, "outside of 0 … 9"),
        ({"methods": [None]}, "None is neither the name of a method nor a method"),
        ({"methods": SmoothGrad(noise=-1.0)}, "noise of at least 0"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(change: dict, message: str) -> None:
    model = small_vit()
    call = {"images": images_for(model, 1), "targets": ONE, "methods": "attention"} | change
    with pytest.raises((UsageError, UnsupportedMethod), match=message):
        explain(model, **call)
