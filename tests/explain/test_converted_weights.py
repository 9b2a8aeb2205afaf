"""Weights under older and original names, and of another image size: they become those of timm's network."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from explain.weights_files import DINO, SMALL, config, equal, load, network, write
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.explain import describe
from pipeline.explain.checkpoint import ModelConfig, load_checkpoint, resampled_by_timm
from pipeline.explain.checkpoint.conversion import BY_TIMM
from pipeline.explain.load import load_model, weights_hash
from schemas.errors import UnsupportedModel, UsageError
from schemas.run import ModelSpec


@pytest.mark.parametrize(
    ("name", "arguments", "old"),
    [
        ("beit_base_patch16_224", SMALL, {"blocks.{}.attn.relative_position_index": torch.zeros(197, 197).long()}),
        ("eva02_tiny_patch14_224", SMALL, {"rope.freqs_cos": torch.zeros(9, 8), "rope.freqs_sin": torch.ones(9, 8)}),
    ],
)  # fmt: skip
def test_old_files_that_timm_converts_are_loaded(
    tmp_path: Path, name: str, arguments: dict[str, Any], old: dict[str, Tensor]
) -> None:
    model = network(name, **arguments)
    extra = {key.format(block): tensor for key, tensor in old.items() for block in range(2)}
    config(tmp_path, name, model_args=arguments)
    for prefix in ("", "module."):
        weights = {prefix + key: tensor.clone() for key, tensor in (model.state_dict() | extra).items()}
        assert equal(load(name, write(tmp_path, weights)), model)


def test_original_names_of_deit_iii_are_converted(tmp_path: Path) -> None:
    name = "deit3_small_patch16_224"
    model = network(name, **SMALL)
    weights = {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t for key, t in model.state_dict().items()
    }
    config(tmp_path, name, model_args=SMALL)
    assert equal(load(name, write(tmp_path, weights)), model)


def renamed(model: nn.Module, *changes: tuple[str, str]) -> dict[str, Tensor]:
    weights = dict(model.state_dict())
    for pattern, replacement in changes:
        weights = {re.sub(pattern, replacement, name): tensor for name, tensor in weights.items()}
    return weights


def test_blocks_in_chunks_of_dinov2_are_counted_on(tmp_path: Path) -> None:
    """Its training files have ``blocks.CHUNK.i``, with i counted over all chunks."""
    model = network("vit_small_patch14_dinov2", init_values=0.1, img_size=56, **SMALL)
    config(tmp_path, "vit_small_patch14_dinov2", model_args=SMALL | {"img_size": 56})
    weights = renamed(model, (r"blocks\.0\.", "blocks.0.0."), (r"blocks\.1\.(?!\d)", "blocks.1.1."))
    weights["mask_token"] = torch.ones(1, 32)
    loaded = load("vit_small_patch14_dinov2", write(tmp_path, weights))
    assert equal(loaded, model)
    assert loaded.record.conversion.layout == "blocks in chunks"


@pytest.mark.parametrize("wrap", ["teacher", "teacher and student"])
def test_training_files_of_dino_give_the_backbone(tmp_path: Path, wrap: str) -> None:
    model = network("test_vit", classes=0)
    weights = {f"module.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    weights |= {"module.head.mlp.0.weight": torch.ones(3, 3), "module.head.last_layer.weight_g": torch.ones(3, 1)}
    both = {"teacher": weights} | ({"student": weights} if "student" in wrap else {})
    torch.save(both | {"epoch": 3}, tmp_path / "a.pth")
    loaded, conversion = load_checkpoint(
        ModelConfig(architecture="test_vit"),
        str(tmp_path / "a.pth"),
        None,
        key="teacher" if "student" in wrap else None,
    )
    assert weights_hash(loaded) == weights_hash(model)
    assert (conversion.layout, conversion.left_out) == ("DINO training", ("head.*",))


def test_pre_training_files_of_mae_give_the_encoder(tmp_path: Path) -> None:
    model = network("test_vit", classes=0)
    weights = model.state_dict() | {"mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(8, 64)}
    loaded, conversion = load_checkpoint(ModelConfig(architecture="test_vit"), write(tmp_path, weights), None)
    assert weights_hash(loaded) == weights_hash(model)
    assert conversion.left_out == ("decoder_embed.*", "mask_token")


def test_original_dinov2_with_registers_is_converted_by_timm(tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    model = network(name, init_values=0.1, img_size=56, **SMALL)
    config(tmp_path, name, model_args=SMALL | {"img_size": 56})
    weights = renamed(model, ("reg_token", "register_tokens"))
    weights["pos_embed"] = torch.cat([torch.ones(1, 1, 32), weights["pos_embed"]], 1)
    weights |= {"cls_token": weights["cls_token"] - 1, "mask_token": torch.ones(1, 32)}
    loaded = load(name, write(tmp_path, weights))
    torch.testing.assert_close(loaded.model.cls_token, model.cls_token)
    assert (loaded.record.conversion.layout, loaded.record.conversion.left_out) == (BY_TIMM, ("mask_token",))


def test_biases_that_the_network_lacks_are_not_dropped(tmp_path: Path) -> None:
    """timm's filter leaves them out, because those of its own DINOv3 weights are 0."""
    weights = dict(network(DINO, **SMALL).state_dict())
    weights["storage_tokens"] = weights.pop("reg_token")
    for block in range(2):
        weights[f"blocks.{block}.attn.qkv.bias"] = torch.zeros(96)
    config(tmp_path, DINO, model_args=SMALL, global_pool="avg")
    load(DINO, write(tmp_path, weights))
    weights["blocks.1.attn.qkv.bias"] += 1
    with pytest.raises(UsageError, match=r"1 tensor is unknown: blocks\.\*\.attn\.qkv\.bias \[96\]"):
        load(DINO, write(tmp_path, weights))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_weights_of_another_image_size_are_refused_with_how_to_say_it(tmp_path: Path, name: str) -> None:
    """timm would resize the positions: another network than the one that was trained."""
    model = network(name, img_size=96, **SMALL)
    path = write(tmp_path, model.state_dict())
    config(tmp_path, name, model_args=SMALL)
    says = r"of 96 × 96 pixels, the network for 224 × 224: add --image-size 96, or --image-size 224 to resample"
    with pytest.raises(UsageError, match=says):
        load(name, path)
    config(tmp_path, name, model_args=SMALL | {"img_size": 96})
    assert equal(load(name, path), model)


@pytest.mark.parametrize(("size", "near"), [(5, "16"), (100, "96 or 112")])
def test_an_image_size_of_parts_of_patches_is_refused(tmp_path: Path, size: int, near: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    for spec in ({"checkpoint": str(path)}, {"pretrained": True}):
        with pytest.raises(UsageError, match=f"no multiple of the patches of 16 pixels; use {near}"):
            load_model(ModelSpec(name="test_vit", image_size=size, **spec))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_an_image_size_resamples_positions_as_timm_does(tmp_path: Path, name: str) -> None:
    model = network(name, img_size=96, **SMALL)
    path = write(tmp_path, model.state_dict())
    config(tmp_path, name, model_args=SMALL)
    own = load(name, path, image_size=96)
    assert equal(own, model)
    assert own.record.conversion is None
    loaded = load(name, path, image_size=128)
    expected = network(name, img_size=128, **SMALL)
    module: Any = timm.models.vision_transformer if name.startswith("vit") else timm.models.beit
    with warnings.catch_warnings(action="ignore"):  # timm indexes by a list
        expected.load_state_dict(module.checkpoint_filter_fn(model.state_dict(), expected))
    assert equal(loaded, expected)
    positions = loaded.record.conversion.positions
    assert (positions.from_grid, positions.to_grid) == ((6, 6), (8, 8))
    assert (positions.interpolation, positions.antialias) == {"v": ("bicubic", True), "b": ("linear", False)}[name[0]]
    assert loaded.record.input_size == (128, 128)


@pytest.mark.parametrize("name", ["test_resnet", "mvitv2_tiny", "hiera_tiny_224", "levit_128s"])
def test_a_network_is_described_for_the_image_size_that_is_asked_for(name: str) -> None:
    """Some have no argument for it, and some do not state it."""
    described = describe(ModelConfig(architecture=name).skeleton(img_size=160))
    assert described.input_size == (160, 160)


def test_an_image_size_that_a_network_ignores_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"does not take images \[1, 3, 160, 160\]"):
        describe(ModelConfig(architecture="efficientformer_l1").skeleton(img_size=160))


def test_weights_of_a_convolutional_network_serve_images_of_any_size(tmp_path: Path) -> None:
    model = network("test_resnet")
    path = write(tmp_path, model.state_dict())
    loaded = load("test_resnet", path, image_size=96)
    assert equal(loaded, model)
    assert (loaded.record.input_size, loaded.record.grid, loaded.record.conversion) == ((96, 96), (3, 3), None)


def test_what_timm_resamples_of_its_own_weights_is_recorded() -> None:
    usual, larger = (network("test_vit", img_size=size) for size in (160, 320))
    record = resampled_by_timm(usual, larger)
    assert record is not None
    assert (record.positions.from_grid, record.positions.to_grid) == ((10, 10), (20, 20))
    assert resampled_by_timm(usual, usual) is None
