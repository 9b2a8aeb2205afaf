"""Weights files: the network that they are of, or a refusal that tells what to do."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from explain.weights_files import DINO, SMALL, config, equal, load, network, saved_by_torch, write
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from support import examples
from torch import Tensor, nn

from pipeline.explain.checkpoint.weights_file import read_weights
from pipeline.explain.load import load_model
from schemas.errors import UnsupportedModel, UsageError
from schemas.run import ModelSpec


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


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto", "resnet10t"])
def test_the_classes_of_other_networks_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    """Blocks of MobileNet have names such as those of vision transformers that were saved in chunks."""
    model = network(name)
    loaded = load(name, write(tmp_path, model.state_dict()))
    assert equal(loaded, model)
    assert (loaded.anatomy.classes, loaded.anatomy.readout, loaded.record.conversion) == (7, "mean", None)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "backbone.", "module._orig_mod.", "net.vit."])
def test_a_prefix_of_all_names_is_stripped(tmp_path: Path, prefix: str) -> None:
    model = network("test_vit")
    path = write(tmp_path, {prefix + name: tensor for name, tensor in model.state_dict().items()})
    assert equal(load("test_vit", path), model)


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".pt", ".bin", ".ckpt"])
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


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("change", "fault"), [(Tensor.to_sparse, "is sparse"), (lambda tensor: tensor.to("meta"), "has no values")]
)
def test_tensors_without_plain_values_are_refused(
    tmp_path: Path, change: Callable[[Tensor], Tensor], fault: str
) -> None:
    weights = network("test_vit").state_dict()
    torch.save(weights | {"head.weight": change(weights["head.weight"])}, tmp_path / "a.pth")
    with pytest.raises(UsageError, match=rf"'head.weight' {fault}.*; save plain tensors"):
        load("test_vit", str(tmp_path / "a.pth"))


@pytest.mark.parametrize("others", [{"loss.weight": torch.ones(3)}, {"head.weight": torch.ones(7, 64)}])
def test_a_prefix_of_most_names_is_named_with_the_option_that_takes_them(
    tmp_path: Path, others: dict[str, Tensor]
) -> None:
    model = network("test_vit")
    path = write(tmp_path, {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()} | others)
    with pytest.raises(UsageError, match=r"of them are there under backbone\.: add --checkpoint-key backbone"):
        load("test_vit", path)
    assert equal(load("test_vit", path, checkpoint_key="backbone"), model)


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


def test_a_key_that_is_in_several_state_dicts_is_refused(tmp_path: Path) -> None:
    weights = [{f"teacher.{name}": torch.full((2,), value) for name in "ab"} for value in (1.0, 2.0)]
    (tmp_path / "a.pth").write_bytes(saved_by_torch(dict(zip(("model", "ema"), weights, strict=True))))
    with pytest.raises(UsageError, match=r"'teacher' is in several of its state dicts \('model', 'ema'\)"):
        read_weights(str(tmp_path / "a.pth"), "teacher")
    assert read_weights(str(tmp_path / "a.pth"), "ema").keys() == {"teacher.a", "teacher.b"}


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
