"""Parts of a network that are not what the rules of the methods were written for: the same maps, or a refusal."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from explicit import assert_equal
from support import SHORT, artifact_record, images_for, small_vit
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel
from written_out_rules import WrittenRules, relevance

from pipeline.explain import LeGrad, UnsupportedMethod, UnsupportedModel, describe, explain, explainer, methods
from pipeline.explain.artifacts import write_artifact
from pipeline.explain.attribution.learned import LearnedMethod
from pipeline.explain.load import weights_hash

TARGETS = torch.tensor([[1, 4], [2, 2]])
LEARNED = {name for name, method in methods.items() if issubclass(method, LearnedMethod)}
EVERY = [SHORT.get(name, name) for name in methods if name not in LEARNED | {"cam"}]  # which needs a mean


class LoRA(nn.Module):
    """An adapter as many write it: beside the layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = (
            nn.Linear(*sizes, bias=False).double() for sizes in ((base.in_features, 2), (2, base.out_features))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class LoRALinear(nn.Linear):
    """An adapter as others write it: a subclass, whose weight is not the one that is used."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.roll(1, -1).mean(-1, keepdim=True)


class LayerNorm(nn.Module):
    """Has the name of a norm, and is none."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)


class Mixture(nn.Module):
    """A mixture of two experts for each token."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.experts, self.router = nn.ModuleList([mlp, copy.deepcopy(mlp)]), nn.Linear(32, 2).double()
        self.fc2 = mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        outputs = torch.stack([expert(x) for expert in self.experts], -1)
        return (outputs * self.router(x).softmax(-1)[..., None, :]).sum(-1)


class Block(nn.Module):
    """Has the name of timm's block, and is a post-norm one."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


def as_class(cls: type) -> Callable[[nn.Module], nn.Module]:
    def change(module: nn.Module) -> nn.Module:
        module.__class__ = cls
        return module

    return change


def with_forward(forward: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    def change(module: nn.Module) -> nn.Module:
        plain = module.forward
        module.forward = lambda x, **options: forward(plain, x)
        return module

    return change


class Residual(timm.layers.Mlp):
    """An adapter behind the MLP."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.relu()


class Doubled(timm.models.vision_transformer.VisionTransformer):
    """Runs its blocks twice."""

    def forward_features(self, x: Tensor) -> Tensor:
        return self.blocks(super().forward_features(x))


CHANGES: dict[str, tuple[str, Callable[[nn.Module], nn.Module], str]] = {
    "LoRA around qkv": ("blocks.1.attn.qkv", LoRA, r"attn.qkv is .*LoRA, but .* Linear only; merge the adapters"),
    "LoRA around proj": ("blocks.0.attn.proj", LoRA, "merge the adapters first"),
    "LoRA around fc1": ("blocks.0.mlp.fc1", LoRA, "merge the adapters first"),
    "LoRA around fc2": ("blocks.2.mlp.fc2", LoRA, "merge the adapters first"),
    "LoRA around the head": ("head", LoRA, "merge the adapters first"),
    "a subclass of Linear": ("blocks.1.mlp.fc2", as_class(LoRALinear), "merge the adapters first"),
    "two linear layers": ("blocks.1.mlp.fc2", lambda fc2: nn.Sequential(fc2, nn.GELU()), "merge the adapters first"),
    "an adapter behind the MLP": ("blocks.1.mlp", as_class(Residual), "blocks.1.mlp is .*Residual"),
    "a mixture of experts": ("blocks.0.mlp", Mixture, "blocks.0.mlp is .*Mixture"),
    "a norm of the same name": ("blocks.1.norm1", lambda norm: LayerNorm(), "blocks.1.norm1 is .*LayerNorm, but"),
    "a norm over tokens": ("norm", lambda norm: nn.BatchNorm1d(37).double(), "norm is .*BatchNorm1d"),
    "an activation over tokens": ("blocks.2.mlp.act", lambda act: nn.Softmax(1), "blocks.2.mlp.act is .*Softmax"),
    "an activation in place": ("blocks.2.mlp.act", lambda act: nn.ReLU(inplace=True), "overwrites its input"),
    "a layer in place of a scale": ("blocks.0.ls2", lambda scale: nn.Linear(32, 32).double(), "blocks.0.ls2 is"),
    "a layer in place of a dropout": ("blocks.0.mlp.drop2", lambda drop: nn.Tanh(), "blocks.0.mlp.drop2 is .*Tanh"),
    "a post-norm block of the same name": ("blocks.1", Block, r"block 1 \(Block\) is not a pre-norm block"),
    "an attention of the same name": ("blocks.1.attn", as_class(type("Attention", (nn.Module,), {})), "attends by"),
    "a function of its own": ("blocks.1.mlp", with_forward(lambda mlp, x: mlp(x) + x), "has a forward of its own"),
    "a wrapped attention": ("blocks.1.attn", with_forward(lambda attn, x: attn(x)), "has a forward of its own"),
    "a compiled block": ("blocks.1", lambda b: torch.compile(b, backend="eager"), "blocks.1 was compiled; give"),
    "a compiled layer": ("patch_embed.proj", lambda c: torch.compile(c, backend="eager"), "proj was compiled; give"),
}


def change(model: nn.Module, path: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Put what ``make`` makes of a module in its place."""
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, make(model.get_submodule(path)))
    return model.eval()


@pytest.mark.parametrize("case", CHANGES)
def test_a_part_of_another_class_is_refused_by_its_path(case: str) -> None:
    path, make, message = CHANGES[case]
    model = change(small_vit(), path, make)
    for call in (describe, lambda m: explain(m, images_for(m, 1), 3, "transformer_attribution")):
        with pytest.raises(UnsupportedModel, match=message):
            call(model)


@pytest.mark.parametrize("path", ["", ".attn", ".attn.qkv", ".mlp", ".mlp.fc2", ".norm2"])
def test_a_part_that_two_blocks_share_is_refused(path: str) -> None:
    """A hook on it would be called for both."""
    model = small_vit()
    change(model, f"blocks.2{path}", lambda _: model.get_submodule(f"blocks.0{path}"))
    with pytest.raises(UnsupportedModel, match=rf"blocks\.2{path} is blocks\.0{path} a second time"):
        describe(model)


def test_activations_and_dropouts_may_be_shared() -> None:
    model = small_vit()
    for block in model.blocks:
        block.mlp.act, block.attn.proj_drop = model.blocks[0].mlp.act, model.blocks[0].mlp.drop1
    images = images_for(model, 2)
    computed, expected = (explain(network, images, TARGETS, EVERY, keys="ab") for network in (model, small_vit()))
    assert all(torch.equal(computed[name], maps) for name, maps in expected.items())


def test_blocks_may_have_different_numbers_of_heads() -> None:
    """Heads without values are as good as none, but for the mean over heads."""
    model, pruned = small_vit(depth=2), small_vit(depth=2)
    attention, smaller = model.blocks[1].attn, pruned.blocks[1].attn
    rows = torch.arange(96).reshape(3, 4, 8)[:, :2].flatten()  # of q, k and v those of the first two heads
    smaller.num_heads, smaller.attn_dim = 2, 16
    smaller.qkv.weight = nn.Parameter(attention.qkv.weight[rows].detach())
    smaller.qkv.bias = nn.Parameter(attention.qkv.bias[rows].detach())
    smaller.proj.weight = nn.Parameter(attention.proj.weight[:, :16].detach())
    with torch.no_grad():
        attention.qkv.weight.view(3, 4, 8, 32)[2, 2:] = 0
        attention.qkv.bias.view(3, 4, 8)[2, 2:] = 0
        for network in (model, pruned):  # the map of transformer attribution is then that of the last block alone
            network.blocks[0].attn.proj.weight[:] = 0
    images = images_for(model, 1)
    assert torch.allclose(model(images), pruned(images), rtol=0, atol=1e-10)
    names = ["transformer_attribution", "gradcam", "reciprocam", "cp_lrp"]
    computed, expected = (explain(network, images, 3, names) for network in (pruned, model))
    expected["transformer_attribution"] *= 2
    for name in names:
        assert expected[name].abs().max() > 0
        assert torch.allclose(computed[name], expected[name], rtol=1e-8, atol=1e-12), name


def test_a_method_of_the_network_that_was_replaced_is_refused() -> None:
    model = small_vit()
    model.forward_head = lambda tokens, pre_logits=False: model.head(tokens.mean(1))
    with pytest.raises(UnsupportedModel, match="it has a forward_head of its own"):
        describe(model)
    model = small_vit()
    model.__class__ = Doubled
    with pytest.raises(UnsupportedModel, match="Doubled cannot be explained: it is none of timm's VisionTransformer"):
        describe(model)


def weight_norm(layer: nn.Linear) -> None:
    parametrizations.weight_norm(layer).parametrizations.weight.original0.data *= 0.7


def weight_norm_by_a_hook(layer: nn.Linear) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(layer).weight_g.data *= 0.7


def halve(layer: nn.Linear) -> None:
    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.sin() / 2

    parametrize.register_parametrization(layer, "weight", Halved())


REPARAMETRIZED: dict[str, Callable[[nn.Linear], object]] = {
    "a parametrization": halve,
    "weight norm": weight_norm,
    "weight norm, by a hook": weight_norm_by_a_hook,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm, by a hook": torch.nn.utils.spectral_norm,
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
}
"""Ways to compute a weight from others: the layer is linear as before."""


@pytest.mark.parametrize("way", REPARAMETRIZED)
def test_a_weight_that_is_computed_counts_as_what_it_is(way: str) -> None:
    """Every method gives the maps of the network with the weights that come out."""
    torch.manual_seed(1)
    model, merged = small_vit().train(), small_vit()
    layers = ["blocks.0.attn.qkv", "blocks.1.attn.proj", "blocks.1.mlp.fc1", "blocks.2.mlp.fc2", "head"]
    for path in layers:
        REPARAMETRIZED[way](model.get_submodule(path))
    model.eval()
    images = images_for(model, 2)
    model(images)  # the old hooks compute the weight here
    for path in layers:
        weight = model.get_submodule(path).weight.detach().clone()
        assert not torch.allclose(merged.get_submodule(path).weight, weight, rtol=0.01)
        merged.get_submodule(path).weight.data = weight
    assert torch.allclose(model(images), merged(images), rtol=0, atol=1e-12)
    computed, expected = (explain(network, images, TARGETS, EVERY, keys=["a", "b"]) for network in (model, merged))
    for name, maps in expected.items():
        assert (computed[name] - maps).abs().max() <= 1e-9 * maps.abs().max(), name


def read_only(module: nn.Module, args: object, output: Tensor) -> None:
    assert len(output[0]) == 37, "sees whole images only"


def changing(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return output.relu()


@pytest.mark.parametrize("hook", [read_only, changing])
@pytest.mark.parametrize("path", ["", "blocks.2", "blocks.2.norm1", "blocks.1.mlp.fc2", "blocks.0.attn"])
def test_hooks_of_other_code_are_refused_before_any_is_called(path: str, hook: Callable) -> None:
    model = small_vit()
    handle = model.get_submodule(path).register_forward_hook(hook)
    for name in ("attention", "reciprocam"):
        with pytest.raises(UnsupportedModel, match=rf"{path or 'it'} has a hook of other code \({hook.__name__}\)"):
            explain(model, images_for(model, 1), 3, name)
    handle.remove()
    assert explain(model, images_for(model, 1), 3, "reciprocam")["reciprocam"].isfinite().all()


@pytest.mark.parametrize("kind", ["forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_of_every_kind_are_refused(kind: str) -> None:
    model = small_vit()
    getattr(model.blocks[1], f"register_{kind}_hook")(lambda *_: None)
    with pytest.raises(UnsupportedModel, match=r"blocks.1 has a hook of other code \(.*lambda>\)"):
        explain(model, images_for(model, 1), 3, "gradcam")


def lightning(model: nn.Module) -> nn.Module:
    module = nn.Module()
    module.net = nn.Module()
    module.net.backbone = model
    return module


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (nn.DataParallel, r"wraps a VisionTransformer; give that, model\.module$"),
        (AveragedModel, r"wraps a VisionTransformer; give that, model\.module$"),
        (ModelEmaV3, r"wraps a VisionTransformer; give that, model\.module$"),
        (lightning, r"wraps a VisionTransformer; give that, model\.net\.backbone$"),
        (lambda model: torch.compile(model, backend="eager"), r"was compiled; .*torch\.compile \(its _orig_mod\)"),
        (lambda model: type("FullyShardedDataParallel", (nn.DataParallel,), {})(model), "has sharded weights"),
        (lambda model: type("ViT", (nn.Module,), {"__module__": "transformers.vit"})(), "is a model of transformers"),
        (lambda model: model.state_dict(), r"is not a torch\.nn\.Module"),
        (lambda model: None, r"is not a torch\.nn\.Module"),
    ],
)
def test_a_wrapped_network_is_refused_with_what_to_give(wrap: Callable, message: str) -> None:
    model = wrap(small_vit())
    with pytest.raises(UnsupportedModel, match=message):
        explain(model, torch.zeros(1, 3, 48, 48), 3, "attention")


def test_a_network_that_was_compiled_in_place_is_refused_and_its_copy_is_not() -> None:
    model, images = small_vit(), images_for(small_vit(), 1)
    expected = explain(model, images, 3, "cp_lrp")["cp_lrp"]
    for module in (model, model.blocks[1]):
        module.compile(backend="eager")
        with pytest.raises(UnsupportedModel, match="was compiled in place"):
            explain(model, images, 3, "cp_lrp")
        assert torch.equal(explain(copy.deepcopy(model), images, 3, "cp_lrp")["cp_lrp"], expected)
        module._compiled_call_impl = None


def test_a_network_that_was_made_in_inference_mode_is_refused_and_its_copy_is_not() -> None:
    with torch.inference_mode():
        model = small_vit()
    images = images_for(model, 1)
    for name in ("attention", "gradcam"):
        with pytest.raises(UnsupportedModel, match="cls_token was made under"):
            explain(model, images, 3, name)
        expected = explain(small_vit(), images, 3, name)[name]
        assert torch.equal(explain(copy.deepcopy(model), images, 3, name)[name], expected)


def test_a_quantized_network_is_refused() -> None:
    class Quantized(Tensor):
        """As torchao has it: an ordinary layer, whose weight is of another type."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = torch.ao.quantization.quantize_dynamic(small_vit().float(), {nn.Linear})
    with pytest.raises(UnsupportedModel, match=r"qkv is torch.ao.nn.quantized.*Linear, but .* before quantization"):
        explain(dynamic, torch.zeros(1, 3, 48, 48), 3, "attention")
    model = small_vit()
    model.blocks[1].mlp.fc1.weight = nn.Parameter(model.blocks[1].mlp.fc1.weight.data.as_subclass(Quantized))
    with pytest.raises(UnsupportedModel, match=r"blocks.1.mlp.fc1.weight is a Quantized"):
        describe(model)


def test_relevance_has_a_rule_for_every_activation_and_norm() -> None:
    for path, module in (
        ("blocks.1.mlp.act", nn.SiLU()),
        ("blocks.0.mlp.act", nn.ReLU()),
        ("blocks.1.mlp.act", nn.Tanh()),
        ("blocks.2.norm1", timm.layers.RmsNorm(32).double()),
        ("norm", nn.RMSNorm(32).double()),
    ):
        model = change(small_vit(), path, lambda _, module=module: module)
        images = images_for(model, 1)
        assert_equal(model, images, "cp_lrp", relevance(model, images, WrittenRules(), pixels=False))


def test_transformer_attribution_of_beit_without_relative_positions_is_refused() -> None:
    options = {"use_rel_pos_bias": False, "use_abs_pos_emb": True, "global_pool": "token"}
    model = small_vit("beit_base_patch16_224", **options)
    with pytest.raises(UnsupportedMethod, match="do not cover the attention of Beit"):
        explain(model, images_for(model, 1), 3, "transformer_attribution")


def test_the_weights_are_hashed_at_most_once_and_only_for_methods_that_were_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[nn.Module] = []

    def counting(model: nn.Module) -> str:
        hashed.append(model)
        return weights_hash(model)

    monkeypatch.setattr(explainer, "weights_hash", counting)
    model = small_vit()
    explain(model, images_for(model, 1), 3, [LeGrad(), "attention", "gradcam"])
    assert not hashed
    write_artifact(tmp_path / "pm.safetensors", model.state_dict(), artifact_record(model, "pm"))
    explain(model, images_for(model, 1), 3, ["attention", f"pm:artifact={tmp_path / 'pm.safetensors'}", "gradcam"])
    assert hashed == [model]


@pytest.mark.parametrize("kind", ["LoraConfig", "DoRA", "IA3Config"])
def test_adapters_of_peft_are_refused_until_they_are_merged(kind: str) -> None:
    peft = pytest.importorskip("peft")
    targets = ["qkv", "proj", "fc1", "fc2"]
    if kind == "IA3Config":
        config = peft.IA3Config(target_modules=targets, feedforward_modules=["fc2"], init_ia3_weights=False)
    else:
        config = peft.LoraConfig(target_modules=targets, init_lora_weights=False, use_dora=kind == "DoRA")
    torch.manual_seed(2)
    model = small_vit()
    adapted = peft.get_peft_model(model, config).double().eval()
    images = images_for(model, 2)
    logits = adapted(images)
    assert not torch.allclose(logits, small_vit()(images), rtol=0.01)
    for network in (adapted, model):
        with pytest.raises(UnsupportedModel, match=r"of peft; merge the adapters first: model.merge_and_unload\(\)"):
            explain(network, images, TARGETS, EVERY)
    merged = adapted.merge_and_unload()
    assert torch.allclose(merged(images), logits, rtol=1e-4, atol=1e-4)
    assert explain(merged, images, TARGETS, "transformer_attribution")["transformer_attribution"].isfinite().all()
