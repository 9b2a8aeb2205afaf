"""Features of backbones with a classifier, or without: what a head file reads on them."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.explain import Head
from pipeline.head.backbone import load_backbone
from schemas.errors import UnsupportedModel, UsageError
from schemas.run import ModelSpec

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def saved(folder: Path, architecture: str = "vit_tiny_patch16_224", **arguments: Any) -> tuple[nn.Module, ModelSpec]:
    """A small network in a folder of timm's, and its spec."""
    torch.manual_seed(3)
    arguments = SHAPE | arguments
    model = timm.create_model(architecture, **arguments).eval()
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    images = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": arguments["num_classes"]}
    content = {"architecture": architecture, "model_args": arguments, "pretrained_cfg": images}
    (folder / "config.json").write_text(json.dumps(content))
    return model, ModelSpec(name=f"local-dir:{folder}", pretrained=True)


def pixels() -> Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def tokens(model: Any) -> Tensor:
    """Behind the final norm, of these pixels."""
    with torch.no_grad():
        return model.forward_features(pixels() / 127.5 - 1)


@pytest.mark.parametrize("classes", [0, 7])
def test_the_read_out_is_chosen_or_the_networks_own(tmp_path: Path, classes: int) -> None:
    model, spec = saved(tmp_path / "model", num_classes=classes, reg_tokens=2)
    x = tokens(model)
    expected = {None: x[:, 0], "token": x[:, 0], "mean": x[:, 3:].mean(1)}
    expected["token+mean"] = torch.cat([x[:, 0], x[:, 3:].mean(1)], 1)
    hashes = set()
    for read_out, features in expected.items():
        backbone = load_backbone(spec, read_out)  # type: ignore[arg-type]
        assert torch.allclose(backbone.features(pixels().numpy()), features, atol=1e-5)
        assert backbone.head.read_out == (read_out or "token")
        hashes.add(backbone.head.backbone_sha256)
        head = Head(backbone.head, {"weight": torch.ones(2, backbone.head.feature_width)})
        logits = head.attach(timm_copy(model, classes))(pixels() / 127.5 - 1)
        assert torch.allclose(logits[:, 0], features.sum(1), atol=1e-4)
    assert len(hashes) == 1


def timm_copy(model: nn.Module, classes: int) -> nn.Module:
    copy = timm.create_model("vit_tiny_patch16_224", **SHAPE, num_classes=classes, reg_tokens=2).eval()
    copy.load_state_dict(model.state_dict())
    copy.pretrained_cfg["mean"], copy.pretrained_cfg["std"] = (0.5,) * 3, (0.5,) * 3  # type: ignore[index]
    return copy


def test_an_attention_pooler_without_a_classifier(tmp_path: Path) -> None:
    model, spec = saved(tmp_path / "model", num_classes=0, class_token=False, global_pool="map")
    backbone = load_backbone(spec)
    assert backbone.head.read_out == "pool"
    with torch.no_grad():
        expected = model.attn_pool(tokens(model))  # type: ignore[operator]
    assert torch.allclose(backbone.features(pixels()), expected, atol=1e-5)
    with pytest.raises(UnsupportedModel, match="--read-out token: does not fit VisionTransformer: it reads out pool"):
        load_backbone(spec, "token")


def test_weights_that_fit_several_read_outs_ask_for_one(tmp_path: Path) -> None:
    _, spec = saved(tmp_path / "model", "vit_small_patch16_dinov3", num_classes=0)  # has the same tensors for both
    with pytest.raises(UsageError, match="with the read-outs token and avg, which give different"):
        load_backbone(spec)
    assert load_backbone(spec, "mean").head.read_out == "mean"
    assert load_backbone(spec.model_copy(update={"global_pool": "token"})).head.read_out == "token"


def test_a_distilled_network_is_refused(tmp_path: Path) -> None:
    _, spec = saved(tmp_path / "model", "deit_tiny_distilled_patch16_224", num_classes=5)
    with pytest.raises(UnsupportedModel, match="it has two classifiers, one for its distillation token"):
        load_backbone(spec)
