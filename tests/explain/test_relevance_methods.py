"""Relevance methods: against networks with constant factors, and by conservation."""

import pytest
import torch
import torch.nn.functional as F
from explicit import TARGET, assert_equal, compute_map
from support import FAMILIES, family_anatomies, images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import describe, methods
from pipeline.explain.attribution import transformer_attribution
from pipeline.explain.capture import LinearCall
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.trace import record_forward


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

    sigmoid_of = torch.sigmoid

    def sigmoid(x: Tensor) -> Tensor:
        return constant(sigmoid_of(x))

    def normalize(x: Tensor, dim: int = 1) -> Tensor:
        return x / constant(x.square().sum(dim, keepdim=True).sqrt())

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
        patch.setattr(torch, "sigmoid", sigmoid)
        patch.setattr(F, "normalize", normalize)
        whole = model(images)[:, TARGET]
        shares = []
        for patch_index in range(describe(model).patches):
            zeroed[:], replay[:] = [patch_index], memory
            shares.append(whole - model(images)[:, TARGET])
            assert not replay
    handle.remove()
    return torch.stack(shares, 1)


AFFINE = [
    name
    for name, anatomy in family_anatomies().items()
    if anatomy.mlp == "Mlp"
    and anatomy.norm == "LayerNorm"  # the product of a gated MLP is not affine
    and not anatomy.registers  # nor is the largest value
]


@pytest.mark.parametrize("kind", AFFINE)
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
    assert torch.allclose(compute_map(model, images, "cp_lrp").sum((1, 2)), logits, rtol=1e-12, atol=1e-13)
    texts = small_vit(**FAMILIES["texts, sigmoid"])
    for name, parameter in texts.named_parameters():
        if "bias" in name:
            parameter.data[:] = 0
    texts.pos_embed.data[:] = 0
    with torch.no_grad():
        logits = texts(images)[:, TARGET] - texts.head.bias
    assert torch.allclose(compute_map(texts, images, "cp_lrp").sum((1, 2)), logits, rtol=1e-12, atol=1e-13)
    leaking = small_vit(class_token=False, global_pool="avg")
    with torch.no_grad():
        logits = leaking(images)[:, TARGET]
    assert not torch.allclose(compute_map(leaking, images, "cp_lrp").sum((1, 2)), logits, rtol=1e-2)


@pytest.mark.parametrize(
    "kind",
    [
        "class token",
        "registers",
        "layer scale",
        "q/k norm",
        "not square",
        "norm in front",
        "texts",
        "test-time register",
    ],
)
def test_transformer_attribution_hands_all_relevance_on(kind: str) -> None:
    """Every rule conserves: what starts as one at the class arrives as one at the input of each block."""
    model = small_vit(**FAMILIES[kind])
    method = methods["transformer_attribution"]()
    anatomy = describe(model)
    targets = torch.full((3, 1), TARGET)
    with preserve_model_state(model), torch.no_grad():
        trace = record_forward(model, anatomy, images_for(model), method.needs(anatomy), ("a", "b", "c"), 0)
        relevance = transformer_attribution._class_token_relevance(trace, targets)
        for block in (2, 1):
            assert torch.allclose(relevance.sum((1, 2)), torch.ones(3, dtype=torch.float64), atol=1e-6)
            attention_relevance, relevance = transformer_attribution._through_block(trace, block, relevance)
            assert attention_relevance.shape[2] == (1 if block == 2 else relevance.shape[1])
    assert relevance.abs().sum() > 0


def test_the_z_plus_rule_is_the_one_with_products_written_out() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(7, 5).double().requires_grad_(False)
    tokens, relevance = torch.randn(2, 3, 7, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    products = (tokens[..., None, :] * layer.weight).relu()  # [2, 3, out, in]
    shares = (products / products.sum(-1, keepdim=True)).nan_to_num(0)  # a unit without any has none to share
    expected = (shares * relevance[..., None]).sum(-2)
    call = LinearCall(layer.weight, layer.bias, tokens, layer(tokens))
    given = transformer_attribution._through_linear(call, relevance)
    assert torch.allclose(given, expected, rtol=1e-6, atol=1e-6)
