"""Test-time registers: equal to the reference, and to the network written out."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from golden_models import GOLDEN, golden_model
from support import FAMILIES, NEURONS, images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import Registers, UnsupportedModel, as_timm, describe, explain
from pipeline.explain.head import backbone_hash
from pipeline.explain.weights_hash import weights_hash
from schemas.errors import UsageError
from schemas.registers import RegistersRecord

TOLERANCE = json.loads((GOLDEN / "new" / "cases.json").read_text())["tolerance"]


def registers(neurons: dict[int, tuple[int, ...]], **fields: Any) -> Registers:
    return Registers(RegistersRecord(neurons=neurons, **fields))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("kind", "value"), [("neuron", "neuron"), ("layer", "block")])
def test_logits_and_attention_are_those_of_the_reference(dtype: torch.dtype, kind: str, value: str) -> None:
    data = np.load(GOLDEN / "new" / "A.npz")
    model, images = golden_model("A").to(dtype), torch.tensor(data["x"]).to(dtype)
    maps = explain(registers({0: (1, 5, 17), 1: (0, 9)}, value=value).attach(model), images, 0, "attention")
    tolerance = TOLERANCE[str(dtype).removeprefix("torch.")]["default"]
    for computed, name in ((maps.logits, "logits"), (maps["attention"][:, 0], "attention")):
        expected = data[f"ttr_{kind}_{name}"]
        assert np.abs(computed.numpy() - expected).max() <= tolerance * np.abs(expected).max()


def written_out(model: Any, image: Tensor, neurons: dict[int, tuple[int, ...]]) -> Tensor:
    """Logits of one image, token by token and channel by channel."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))
    tokens = torch.cat([tokens, torch.zeros(1, 1, tokens.shape[2], dtype=tokens.dtype)], 1)
    for index, block in enumerate(model.blocks):
        middle = tokens + block.ls1(block.attn(block.norm1(tokens)))
        hidden: list[Tensor] = []
        with block.mlp.norm.register_forward_pre_hook(lambda _, args, kept=hidden: kept.append(args[0])):
            block.mlp(block.norm2(middle))
        (values,) = hidden
        for channel in neurons.get(index, ()):
            column = values[0, :, channel].tolist()
            values[0, model.num_prefix_tokens :, channel] = 0
            values[0, -1, channel] = max(column, key=abs)
        tokens = middle + block.ls2(block.mlp.fc2(block.mlp.norm(values)))
    logits: Tensor = model.forward_head(model.norm(tokens[:, :-1]))[0]
    return logits


@torch.no_grad()
@pytest.mark.parametrize("kind", ["registers", "mean", "distilled", "test-time register, gated", "norm in front"])
@pytest.mark.parametrize("neurons", [NEURONS, {}], ids=["neurons", "none"])
def test_the_network_is_the_one_written_out_token_by_token(kind: str, neurons: dict[int, tuple[int, ...]]) -> None:
    model = small_vit(**FAMILIES[kind] | {"neurons": None})
    images = images_for(model)
    plain, expected = model(images), torch.stack([written_out(model, image, neurons) for image in images])
    logits = registers(neurons).attach(model)(images)
    assert torch.allclose(logits, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(logits, plain, rtol=1e-3)  # without neurons, the token is still attended
    assert torch.allclose(logits[:1], model(images[:1]), rtol=0, atol=1e-12)


def test_it_is_another_network_with_the_same_backbone() -> None:
    hashes = {weights_hash(small_vit(neurons=neurons)) for neurons in (None, {}, {0: (1,)}, {0: (1,), 2: (1,)})}
    assert len(hashes) == 4
    other = registers({0: (1,)}, value="block").attach(small_vit())
    assert weights_hash(other) not in hashes
    assert backbone_hash(other) == backbone_hash(small_vit())
    found = registers({0: (1,)}, backbone=backbone_hash(other), provenance="100 images").attach(small_vit())
    assert weights_hash(found) in hashes


def test_the_model_comes_back_as_it_was() -> None:
    model = small_vit(neurons=NEURONS).train()
    images = images_for(model)
    before, blocks = weights_hash(model), list(model.blocks)
    explain(model, images, 1, ["legrad", "reciprocam", "gradcam", "cp_lrp", "attention"])
    assert (weights_hash(model), list(model.blocks)) == (before, blocks)
    assert model.training
    assert model.blocks[0].mlp.drop1.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    copied = copy.deepcopy(model).eval()
    assert torch.equal(copied(images), model.eval()(images))


def test_a_model_of_another_library_gets_them_as_the_network_of_timm() -> None:
    torch.manual_seed(0)
    shape = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    model = torchvision.models.VisionTransformer(num_classes=5, **shape).eval()
    nn.init.normal_(model.heads.head.weight)
    images = torch.randn(2, 3, 32, 32)
    twin = registers({0: (1, 5)}).attach(as_timm(model))
    maps, plain = (explain(network, images, 3, ["legrad", "reciprocam"]) for network in (twin, model))
    assert describe(twin).registers == 1
    assert not torch.allclose(maps["legrad"], plain["legrad"], rtol=1e-3)
    assert torch.equal(plain.logits, explain(model, images, 3, "legrad").logits)


def test_a_file_keeps_what_it_does(tmp_path: Path) -> None:
    path, model = tmp_path / "registers.json", small_vit()
    made = registers({2: (9, 0), 0: (1,)}, backbone=backbone_hash(model), provenance="drawn")
    made.save(path)
    assert Registers.load(path).record == made.record
    assert Registers.load(path).record.neurons == {0: (1,), 2: (0, 9)}
    images = images_for(model)
    assert torch.equal(Registers.load(path).attach(model)(images), small_vit(neurons={0: (1,), 2: (0, 9)})(images))
    made.save(path)  # again
    (tmp_path / "head.json").write_text("{}")
    with pytest.raises(UsageError, match=r"head\.json: neurons: Field required"):
        made.save(tmp_path / "head.json")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"neurons": {"0": [1, 1]}}, "neurons: block 0 names a channel twice"),
        ({"neurons": {"0": []}}, "neurons.0: Tuple should have at least 1 item"),
        ({"neurons": {"-1": [1]}}, "neurons.-1"),
        ({"neurons": {}, "value": "largest"}, "value: Input should be 'neuron' or 'block'"),
        ({"neurons": {}, "format": "registers/2"}, "format: Input should be 'registers/1'"),
    ],
)
def test_files_that_say_something_else_are_refused(content: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "registers.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=rf"registers\.json: {says}"):
        Registers.load(path)


def checkpointed() -> nn.Module:
    model = small_vit()
    model.set_grad_checkpointing()
    return model


@pytest.mark.parametrize(
    ("model", "fields", "says"),
    [
        (small_vit, {"neurons": {3: (1,)}}, "it has no block 3, only 0 to 2"),
        (small_vit, {"neurons": {0: (128,)}}, "the MLP of block 0 has no channel 128, only 0 to 127"),
        (small_vit, {"backbone": "sha256:0"}, "found in the network sha256:0…, this one is sha256:"),
        (lambda: small_vit(neurons={}), {}, "it has test-time registers already"),
        (lambda: small_vit(**FAMILIES["rotary"]), {}, "its rotary positions are those of its own tokens"),
        (lambda: small_vit(**FAMILIES["relative bias"]), {}, "its relative positions are those of its own tokens"),
        (checkpointed, {}, "gradient checkpointing calls its blocks one by one; switch it off"),
    ],
)
def test_networks_that_they_do_not_fit_are_refused(
    model: Callable[[], nn.Module], fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(UnsupportedModel, match=f"registers: does not fit .*: .*{says}"):
        registers(**{"neurons": {}} | fields).attach(model())
