"""Rules of relevance: against autograd on a network with every rule written out, and by what they conserve."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from explicit import TARGET, assert_equal
from support import FAMILIES, images_for, small_vit
from torch import Tensor, nn
from written_out_rules import WrittenRules, relevance

from pipeline.explain import UnsupportedMethod, describe, explain, methods
from pipeline.explain.capture import ORDINARY, Capture
from pipeline.explain.linear_rules import linear_call
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.relevance_rules import LIBRA
from pipeline.explain.trace import record_forward

RULES = {
    "cp_lrp": WrittenRules(),
    "attn_lrp": WrittenRules(shares_attention=True),
    "attn_lrp:read=pixels": WrittenRules(shares_attention=True),
    "attn_lrp:read=pixels:gamma=0.25": WrittenRules(shares_attention=True, gamma=0.25, embedding_gamma=0.25),
    "cp_lrp:gamma=0.5:gamma_in_attention=false": WrittenRules(gamma=0.5, gamma_in_attention=False),
    "cp_lrp:read=pixels:gamma=0.25:linear_gamma=0.05": WrittenRules(gamma=0.05, embedding_gamma=0.25),
}
PLAIN = ("class token", "mean, fc_norm", "SwiGLU", "attention pool", "quick GELU")
"""Families that the default tests try with every set of rules."""


CASES = [
    pytest.param(kind, name, marks=[pytest.mark.soak] if "gamma" in name and kind not in PLAIN else [])
    for name in RULES
    for kind in FAMILIES
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_relevance_is_that_of_the_written_out_rules(kind: str, name: str) -> None:
    model = small_vit(**FAMILIES[kind], depth=2)
    images = images_for(model, 1)
    assert_equal(model, images, name, relevance(model, images, RULES[name], "pixels" in name))


def libra_terms(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of the input of block 0 and of every bias behind it by the rules of LibraGrad, and the sum."""
    anatomy = describe(model)
    outputs: list[tuple[Tensor, Tensor]] = []
    with preserve_model_state(model):
        norms = {
            path: module
            for path, module in model.named_modules()
            if getattr(module, "bias", None) is not None and isinstance(module, nn.LayerNorm) and path != "norm_pre"
        }
        for module in norms.values():
            module.register_forward_hook(lambda module, _, output: outputs.append((module.bias, output)))
        behind = {
            path: parameter.requires_grad_()
            for path, parameter in model.named_parameters()
            if path.endswith("bias")
            and path.rpartition(".")[0] not in norms
            and not any(part in path for part in ("patch_embed", "norm_pre", "rel_pos"))
        }
        try:
            trace = record_forward(model, anatomy, images, Capture.TOKENS | Capture.RULES, ("a",), 0)
            names = [path for path in behind if behind[path].ndim == 1]
            inputs = [trace.block_input(0), *(output for _, output in outputs), *(behind[path] for path in names)]
            score = trace._scores[:, TARGET].sum()
            with trace.rules.by(LIBRA):
                gradients = torch.autograd.grad(score, inputs, allow_unused=True, materialize_grads=True)
        finally:
            for module in norms.values():
                module._forward_hooks.clear()
            for parameter in behind.values():
                parameter.requires_grad_(False)
    values = [trace.block_input(0), *(bias for bias, _ in outputs), *(behind[path] for path in names)]
    terms = [(value * gradient).sum() for value, gradient in zip(values, gradients, strict=True)]
    head_bias = model.head.bias.expand(anatomy.classes)[TARGET] if anatomy.classifier == "ZeroShotHead" else 0
    return torch.stack(terms).detach(), torch.stack(terms).detach().sum() + head_bias


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_rules_of_libragrad_are_complete(kind: str) -> None:
    """Relevance of the first block's input and of all biases behind it sums to the logit: every rule at once."""
    model = small_vit(**FAMILIES[kind])
    images = images_for(model, 1)
    terms, total = libra_terms(model, images)
    with torch.no_grad():
        logit = model(images)[0, TARGET]
    assert (total - logit).abs() <= 4e-15 * terms.abs().sum()
    assert (terms.sum() - terms[0]).abs() > 1e-3 * logit.abs(), "the biases count"


def test_the_gamma_rule_is_the_one_with_contributions_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    weight[1], bias[1], weight[2, 3] = 0, 0, 0  # an output that is 0, and a contribution that is
    x = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    x[0, :4], x[1] = 0, 0
    x.requires_grad_()
    gradient = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    for gamma in (0.0, 0.25, 100.0):
        y = linear_call(lambda gamma=gamma: gamma, F.linear, x, weight, bias, ())
        assert torch.equal(y, F.linear(x, weight, bias))
        (found,) = torch.autograd.grad(y, x, gradient)
        expected = torch.zeros(4, 7, dtype=torch.float64)
        for row in range(4):
            for j in range(5):
                parts = [*(weight[j] * x[row]).tolist(), bias[j].item()]
                factors = [1 + gamma * (part * y[row, j].item() > 0) for part in parts]
                z = sum(part * factor for part, factor in zip(parts, factors, strict=True))
                if y[row, j] != 0:
                    share = gradient[row, j] * y[row, j].detach() / z
                    expected[row] += share * weight[j] * torch.tensor(factors[:7], dtype=torch.float64)
        relevant = x.detach() != 0  # elsewhere the gradient is multiplied by 0
        assert torch.allclose(found[relevant], expected[relevant], rtol=1e-13, atol=1e-13)
        assert found.isfinite().all()


def test_maps_of_every_rule_share_one_forward_and_each_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vit()
    names = ["cp_lrp", "cp_lrp:read=pixels", "attn_lrp", "attn_lrp:read=pixels", "attn_lrp:gamma=0.25", "grad_input"]
    backwards: list[object] = []
    forwards: list[object] = []
    plain, run = torch.autograd.grad, type(model).forward_features

    def counting(*args: Any, **options: Any) -> Any:
        backwards.append(1)
        return plain(*args, **options)

    def forward(self: nn.Module, *args: Any, **options: Any) -> Any:
        forwards.append(1)
        return run(self, *args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    monkeypatch.setattr(type(model), "forward_features", forward)
    explain(model, images_for(model), torch.tensor([[1], [2], [3]]), names)
    assert len(forwards) == 1
    assert len(backwards) == 4, "ordinary, CP-LRP, AttnLRP, AttnLRP with γ"


def test_what_the_rules_do_not_cover_is_refused() -> None:
    model = small_vit()
    anatomy = describe(model)
    for name, message in {
        "attn_lrp:gamma=-1": "γ cannot be negative",
        "cp_lrp:gamma_in_attention=false": "the linear layers have none; give gamma",
    }.items():
        with pytest.raises(UnsupportedMethod, match=message):
            explain(model, images_for(model, 1), 3, name)
    for block in model.blocks:
        block.attn.gate = nn.Linear(32, 32).double()
    for name in ("cp_lrp", "attn_lrp"):
        assert "no rule for the gate" in (methods.parse(name).refusal(describe(model)) or "")
        assert methods.parse(name).refusal(anatomy) is None


def test_a_patch_embedding_of_a_convolutional_network_is_read_at_its_output_only() -> None:
    model = small_vit("vit_tiny_r_s16_p8_224", img_size=64, patch_size=1)
    assert methods.parse("attn_lrp").refusal(describe(model)) is None
    assert "no rules for the patch embedding HybridEmbed" in (
        methods.parse("attn_lrp:read=pixels").refusal(describe(model)) or ""
    )


def test_a_run_records_the_setting_of_gamma_and_nothing_new_without_it() -> None:
    assert methods.parse("cp_lrp").recorded_options == {}
    recorded = methods.parse("cp_lrp:read=pixels:gamma=0.25:gamma_in_attention=false").recorded_options
    assert recorded["gamma_in_attention"] is False
    assert methods.parse("attn_lrp:read=pixels:gamma=0.25").recorded_options["gamma_in_attention"] is True
    assert ORDINARY.capture == Capture.LAST_BLOCK
