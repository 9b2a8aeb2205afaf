"""Weights files: the network that they are of, or a refusal that tells what to do."""

import io
import json
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from support import examples
from torch import Tensor, nn

from pipeline.explain.checkpoint import ModelConfig, load_checkpoint, resampled_by_timm
from pipeline.explain.checkpoint.conversion import BY_TIMM
from pipeline.explain.checkpoint.weights_file import read_weights
from pipeline.explain.load import LoadedModel, load_model, weights_hash
from schemas.errors import UnsupportedModel, UsageError
from schemas.run import ModelSpec

DINO = "vit_small_patch16_dinov3"
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 4}
"""Arguments that make a network small. DINOv3 has the same tensors for the read-outs token and avg."""


def network(name: str, classes: int = 7, **arguments: Any) -> nn.Module:
    """A network whose every tensor is random."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes, **arguments)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def write(folder: Path, weights: dict[str, Tensor], name: str = "model.safetensors") -> str:
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / name)
    return str(folder / name)


def saved_by_torch(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def config(folder: Path, architecture: str, **fields: Any) -> None:
    (folder / "config.json").write_text(json.dumps({"architecture": architecture, **fields}))


def load(name: str, path: str, **options: Any) -> LoadedModel:
    return load_model(ModelSpec(name=name, checkpoint=path, **options))


def equal(loaded: LoadedModel, model: nn.Module) -> bool:
    """Whether two networks are one function, not only of the same tensors."""
    size = loaded.anatomy.input_size
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(loaded.model(images), model(images)) and loaded.record.weights == weights_hash(model)


@pytest.mark.parametrize("read_out", ["token", "avg"])
def test_a_file_that_fits_two_read_outs_needs_one_named(tmp_path: Path, read_out: str) -> None:
    model = network(DINO, global_pool=read_out, **SMALL)
    path = write(tmp_path, model.state_dict())
    config(tmp_path, DINO, model_args=SMALL)
    for name, spec in ((DINO, {"checkpoint": path}), (f"local-dir:{tmp_path}", {"pretrained": True})):
        with pytest.raises(UsageError, match=r"fits .* read-outs token and avg.*--global-pool"):
            load_model(ModelSpec(name=name, **spec))
        assert equal(load_model(ModelSpec(name=name, global_pool=read_out, **spec)), model)


@pytest.mark.parametrize("read_out", ["token", "avg"])
@pytest.mark.parametrize("place", ["model_args", "top level", "pretrained_cfg", "one dict"])
def test_a_read_out_in_config_json_is_taken_wherever_it_stands(tmp_path: Path, read_out: str, place: str) -> None:
    pool = {"global_pool": read_out}
    fields: dict[str, dict[str, Any]] = {
        "model_args": {"model_args": SMALL | pool},
        "top level": {"model_args": SMALL, "pretrained_cfg": {"num_classes": 7}} | pool,
        "pretrained_cfg": {"model_args": SMALL, "pretrained_cfg": pool},
        "one dict": {"model_args": SMALL, "num_classes": 7, "mean": [0.5, 0.5, 0.5]} | pool,
    }
    model = network(DINO, global_pool=read_out, **SMALL)
    path = write(tmp_path, model.state_dict())
    config(tmp_path, DINO, **fields[place])
    other = {"token": "avg", "avg": "token"}[read_out]
    for name, spec in ((DINO, {"checkpoint": path}), (f"local-dir:{tmp_path}", {"pretrained": True})):
        assert equal(load_model(ModelSpec(name=name, **spec)), model)
        with pytest.raises(UsageError, match=f"gives global_pool {read_out}, not {other}"):
            load_model(ModelSpec(name=name, global_pool=other, **spec))


def test_two_read_outs_in_config_json_are_refused(tmp_path: Path) -> None:
    write(tmp_path, network(DINO, **SMALL).state_dict())
    config(tmp_path, DINO, model_args=SMALL | {"global_pool": "avg"}, global_pool="token")
    with pytest.raises(UsageError, match="global_pool is both avg and token"):
        load_model(ModelSpec(name=f"local-dir:{tmp_path}", pretrained=True))


@pytest.mark.parametrize(
    ("name", "read_out"), [("test_vit", "token"), ("test_vit", "avg"), ("vit_base_patch32_siglip_256", "map")]
)
def test_a_read_out_that_only_one_network_has_is_found(tmp_path: Path, name: str, read_out: str) -> None:
    model = network(name, global_pool=read_out, **SMALL)
    path = write(tmp_path, model.state_dict())
    config(tmp_path, name, model_args=SMALL)
    assert equal(load(name, path), model)


def test_a_config_json_of_another_architecture_beside_a_checkpoint_is_refused(tmp_path: Path) -> None:
    """QuickGELU or GELU: equal tensors, another function."""
    path = write(tmp_path, network("vit_base_patch32_clip_quickgelu_224", **SMALL).state_dict())
    config(tmp_path, "vit_base_patch32_clip_quickgelu_224", model_args=SMALL)
    with pytest.raises(UsageError, match=r"is of vit_base_patch32_clip_quickgelu_224, not of vit_base"):
        load("vit_base_patch32_clip_224", path)


def test_a_config_json_of_others_beside_a_checkpoint_says_nothing(tmp_path: Path) -> None:
    model = network("test_vit")
    (tmp_path / "config.json").write_text('{"architectures": ["ViTForImageClassification"], "hidden_size": 768}')
    assert equal(load("test_vit", write(tmp_path, model.state_dict())), model)


def test_what_config_json_leaves_out_is_that_of_the_named_model(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"  # mean 0.5, where timm's default is that of ImageNet
    path = write(tmp_path, network(name, **SMALL).state_dict())
    config(tmp_path, "vit_tiny_patch16_224", model_args=SMALL)
    assert load(name, path).record.mean == (0.5, 0.5, 0.5)
    config(tmp_path, "vit_tiny_patch16_224", model_args=SMALL, pretrained_cfg={"mean": [0.1, 0.2, 0.3]})
    record = load(name, path).record
    assert (record.mean, record.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "backbone.", "module._orig_mod.", "net.vit."])
def test_a_prefix_of_all_names_is_stripped(tmp_path: Path, prefix: str) -> None:
    model = network("test_vit")
    path = write(tmp_path, {prefix + name: tensor for name, tensor in model.state_dict().items()})
    assert equal(load("test_vit", path), model)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("wrap", ["bare", "state_dict", "lightning"])
def test_files_of_torch_save_are_read(tmp_path: Path, suffix: str, wrap: str) -> None:
    model = network("test_vit")
    weights = model.state_dict()
    content: dict[str, dict[str, Any]] = {
        "bare": weights,
        "state_dict": {"epoch": 3, "state_dict": weights, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        "lightning": {"state_dict": {f"model.{name}": tensor for name, tensor in weights.items()}, "callbacks": {}},
    }
    torch.save(content[wrap], tmp_path / f"a{suffix}")
    assert equal(load("test_vit", str(tmp_path / f"a{suffix}")), model)


@examples(30)
@given(data=st.data())
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_damaged_file_is_one_sentence_or_a_network(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    weights = {"cls_token": torch.zeros(1, 1, 64), "head.weight": torch.ones(7, 64)}
    content = bytearray(save(weights) if suffix == ".safetensors" else saved_by_torch(weights))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.mktemp("damaged") / f"a{suffix}"
    path.write_bytes(content)
    with suppress(UsageError):
        assert all(isinstance(tensor, Tensor) for tensor in read_weights(str(path)).values())


def test_a_name_of_a_tensor_moves_no_cursor(tmp_path: Path) -> None:
    weights = network("test_vit").state_dict() | {"\x1b[2J\n\u202e" + 200 * "x": torch.zeros(1)}
    with pytest.raises(UsageError) as refusal:
        load("test_vit", write(tmp_path, weights))
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600


def test_of_several_state_dicts_in_a_file_one_is_chosen_by_its_key(tmp_path: Path) -> None:
    model, other = network("test_vit"), network("test_vit")
    nn.init.zeros_(other.head.weight)
    path = str(tmp_path / "a.pth")
    torch.save({"model": model.state_dict(), "model_ema": other.state_dict(), "epoch": 3}, path)
    with pytest.raises(
        UsageError, match=r"several state dicts \('model', 'model_ema'\); choose one by --checkpoint-key"
    ):
        load("test_vit", path)
    assert equal(load("test_vit", path, checkpoint_key="model"), model)
    assert equal(load("test_vit", path, checkpoint_key="model_ema"), other)
    with pytest.raises(UsageError, match="has no state dict 'teacher'"):
        load("test_vit", path, checkpoint_key="teacher")


def test_a_key_chooses_the_names_that_begin_with_it(tmp_path: Path) -> None:
    """As in checkpoints of DINOv2, whose one state dict holds student and teacher, and of Lightning, with a loss."""
    model, other = network("test_vit"), network("test_vit")
    nn.init.zeros_(other.head.weight)
    weights = {
        f"{part}.backbone.{name}": tensor
        for part, network_ in (("teacher", model), ("student", other))
        for name, tensor in network_.state_dict().items()
    }
    torch.save({"model": weights}, tmp_path / "a.pth")
    assert equal(load("test_vit", str(tmp_path / "a.pth"), checkpoint_key="teacher"), model)
    with pytest.raises(UsageError, match="is not a checkpoint of test_vit"):
        load("test_vit", str(tmp_path / "a.pth"))


@pytest.mark.parametrize("named", ["model.safetensors.index.json", "model-00002-of-00003.safetensors"])
def test_weights_in_several_files_are_read_whether_or_not_there_is_an_index(tmp_path: Path, named: str) -> None:
    model = network("test_vit")
    weights = list(model.state_dict().items())
    for part in range(3):
        write(tmp_path, dict(weights[part::3]), f"model-0000{part + 1}-of-00003.safetensors")
    write(tmp_path, dict(weights), "other-00001-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"head.weight": "../../etc/passwd"}}')
    assert equal(load("test_vit", str(tmp_path / named)), model)
    (tmp_path / "other-00001-of-00002.safetensors").unlink()
    config(tmp_path, "test_vit")
    assert equal(load_model(ModelSpec(name=f"local-dir:{tmp_path}", pretrained=True)), model)
    (tmp_path / "model-00001-of-00003.safetensors").unlink()
    with pytest.raises(UsageError, match="2 of its files are there, which are not all"):
        load("test_vit", str(tmp_path / named))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = network("test_vit").state_dict()
    weights["norm.bias"][3] = float("nan")
    with pytest.raises(UsageError, match=r"norm.bias has values that are not finite"):
        load("test_vit", write(tmp_path, weights))


def test_adapters_are_refused_with_how_to_merge_them(tmp_path: Path) -> None:
    weights = {
        f"base_model.model.vit.encoder.layer.0.attention.attention.query.lora_{part}.weight": torch.zeros(4, 4)
        for part in "AB"
    }
    with pytest.raises(UsageError, match=r"adapters of peft, not a network; merge them first"):
        load("vit_tiny_patch16_224", write(tmp_path, weights, "adapter_model.safetensors"))


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


def test_what_timm_resamples_of_its_own_weights_is_recorded() -> None:
    usual, larger = (network("test_vit", img_size=size) for size in (160, 320))
    record = resampled_by_timm(usual, larger)
    assert record is not None
    assert (record.positions.from_grid, record.positions.to_grid) == ((10, 10), (20, 20))
    assert resampled_by_timm(usual, usual) is None


def test_a_number_of_classes_that_is_not_the_files_is_named(tmp_path: Path) -> None:
    """timm would drop the classifier, and explain a random one."""
    path = write(tmp_path, network("test_vit", classes=5).state_dict())
    name = f"local-dir:{tmp_path}"
    config(tmp_path, "test_vit", model_args={"num_classes": 10}, pretrained_cfg={"num_classes": 5})
    says = r"has 5 classes, but in config.json model_args.num_classes is 10 and pretrained_cfg.num_classes is 5"
    with pytest.raises(UsageError, match=says):
        load_model(ModelSpec(name=name, pretrained=True))
    config(tmp_path, "test_vit", model_args={"num_classes": 5, "img_size": 160}, pretrained_cfg={"num_classes": 10})
    assert equal(load_model(ModelSpec(name=name, pretrained=True)), network("test_vit", classes=5))
    assert equal(load(name, path), network("test_vit", classes=5))


def test_all_differences_are_named_grouped_by_block_with_their_shapes(tmp_path: Path) -> None:
    weights = dict(network("test_vit", init_values=0.1).state_dict())
    del weights["head.bias"]
    weights["norm.weight"] = torch.zeros(3)
    weights["cls_token"] = weights["cls_token"].int()
    with pytest.raises(UsageError) as refusal:
        load("test_vit", write(tmp_path, weights))
    for part in (
        r"1 tensor is missing: head.bias [7]; ",
        r"12 tensors are unknown: blocks.*.ls1.gamma [64] (6 times), blocks.*.ls2.gamma [64] (6 times); ",
        r"2 tensors are of another shape: cls_token [1, 1, 64] in torch.int32, norm.weight [3], not [64]",
    ):
        assert part in str(refusal.value)


def test_a_backbone_without_a_classifier_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="it has no classifier"):
        load("test_vit", write(tmp_path, network("test_vit", classes=0).state_dict()))


def test_a_classifier_with_one_logit_is_refused_with_an_equal_one(tmp_path: Path) -> None:
    model = network("test_vit", classes=1)
    with pytest.raises(UnsupportedModel, match=r"one logit, .* row of zeros in front"):
        load("test_vit", write(tmp_path, model.state_dict()))
    weights = dict(model.state_dict())
    for name in ("head.weight", "head.bias"):
        weights[name] = torch.cat([torch.zeros_like(weights[name]), weights[name]])
    loaded = load("test_vit", write(tmp_path, weights)).model
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).softmax(1)[:, 1], model(images)[:, 0].sigmoid())


def test_a_folder_with_several_weights_files_and_no_usual_name_is_refused(tmp_path: Path) -> None:
    config(tmp_path, "test_vit")
    for name in ("a.safetensors", "b.safetensors"):
        write(tmp_path, network("test_vit").state_dict(), name)
    with pytest.raises(UsageError, match=r"several weights files \(a.safetensors, b.safetensors\)"):
        load_model(ModelSpec(name=f"local-dir:{tmp_path}", pretrained=True))


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", "[" * 200_000, '{"a":' * 200_000, '"architecture"', '{"architecture": 3}', "\x00",
        '{"architecture": "hf-hub:a/b"}', '{"architecture": "../test_vit"}', '{"architecture": "test_vit\\u001b[2J"}',
        '{"architecture": "test_vit", "model_args": []}',
        '{"architecture": "test_vit", "model_args": {"depth": "6"}}',
        '{"architecture": "test_vit", "model_args": {"depth": -1}}',
        '{"architecture": "test_vit", "model_args": {"embed_dim": 1e400}}',
        '{"architecture": "test_vit", "model_args": {"no such": 1}}',
        '{"architecture": "test_vit", "model_args": {"patch_size": 0}}',
        '{"architecture": "test_vit", "model_args": {"img_size": []}}',
        '{"architecture": "test_vit", "model_args": {"img_size": 160, "patch_size": [16, 16, 3]}}',
        '{"architecture": "test_vit", "model_args": {"img_size": 160}, "pretrained_cfg": {"std": [1, 1]}}',
        '{"architecture": "test_vit", "model_args": {"global_pool": [1]}}',
        '{"architecture": "test_vit", "model_args": {"num_classes": {}}}',
        '{"architecture": "test_vit", "model_args": {"norm_layer": "os.system"}}',
        '{"architecture": "test_vit", "model_args": {"block_fn": "eval"}}',
        '{"architecture": "test_vit", "model_args": {"checkpoint_path": "/etc/passwd"}}',
        '{"architecture": "test_vit", "model_args": {"device": "meta"}}',
        '{"architecture": "test_vit", "pretrained_cfg": {"mean": "abc"}}',
        '{"architecture": "test_vit", "model_args": {"depth": 0}}',
        '{"architecture": "test_vit", "model_args": {"depth": 1000000000000}}',
        '{"architecture": "test_vit", "pretrained_cfg": {"mean": []}}',
        '{"architecture": "test_vit", "pretrained_cfg": {"input_size": [3, 0, 0]}}',
        '{"architecture": "test_vit", "pretrained_cfg": {"mean": [1, 2]}}',
        '{"architecture": "test_vit", "pretrained_cfg": {"std": [0, 1, 1]}}',
        '{"architecture": "test_vit", "pretrained_cfg": {"std": [NaN, 1, 1]}}',
        '{"architecture": "test_vit", "pretrained_cfg": {"interpolation": "wild"}}',
        '{"architecture": "test_vit", "pretrained_cfg": {"crop_pct": -1}}',
        '{"architecture": "test_vit", "pretrained_cfg": {"input_size": [1, 160, 160]}}',
        '{"architecture": "resnet18"}',
        '{"architecture": "naflexvit_base_patch16_gap"}',
    ],
)  # fmt: skip
def test_a_hostile_config_json_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    write(tmp_path, network("test_vit").state_dict())
    with pytest.raises(UsageError) as refusal:
        load_model(ModelSpec(name=f"local-dir:{tmp_path}", pretrained=True))
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 2000
