"""Loading of models: the requested weights, or a message why not."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.explain.load import load_model
from pipeline.explain.weights_hash import weights_hash
from schemas.errors import UsageError
from schemas.run import ModelSpec


def save(tmp_path: Path, model: torch.nn.Module, **change: torch.Tensor) -> str:
    path = tmp_path / "weights.safetensors"
    save_file({**model.state_dict(), **change}, path)
    return str(path)


def test_a_checkpoint_brings_its_weights_and_its_number_of_classes(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=7)
    loaded = load_model(ModelSpec(name="test_vit", checkpoint=save(tmp_path, model)))
    assert loaded.record.classes == 7
    assert loaded.record.weights == weights_hash(model)
    assert not loaded.model.training


def test_the_hash_is_of_the_tensors_not_of_the_file(tmp_path: Path) -> None:
    model = timm.create_model("test_vit").half().float()
    full = load_model(ModelSpec(name="test_vit", checkpoint=save(tmp_path, model)))
    half = load_model(ModelSpec(name="test_vit", checkpoint=save(tmp_path, model.half())))
    assert full.record.weights == half.record.weights
    model.float().head.bias.data[0] += 1
    assert weights_hash(model) != full.record.weights


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "vit_tinny_patch16_224", "pretrained": True}, "did you mean vit_tiny_patch16_224"),
        ({"name": "test_vit", "checkpoint": "weights.npz"}, "is not a weights file; give one that ends in"),
        ({"name": "test_vit", "checkpoint": "nowhere.safetensors"}, "no such file"),
        ({"name": "local-dir:/nowhere", "pretrained": True}, "config.json: No such file"),
    ],
)
def test_a_network_that_cannot_be_had_is_refused(spec: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_model(ModelSpec(**spec))


def test_a_checkpoint_of_another_architecture_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = save(tmp_path, timm.create_model("test_vit", embed_dim=32), stray=torch.zeros(1))
    with pytest.raises(UsageError, match=r"is not a checkpoint of test_vit: .*stray.*of another shape"):
        load_model(ModelSpec(name="test_vit", checkpoint=path))


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"not this")
    with pytest.raises(UsageError, match="cannot be read as safetensors"):
        load_model(ModelSpec(name="test_vit", checkpoint=str(tmp_path / "weights.safetensors")))


def test_a_folder_that_timm_cannot_read_is_refused(tmp_path: Path) -> None:
    spec = ModelSpec(name=f"local-dir:{tmp_path}", pretrained=True)
    for content, message in (
        ("{}", "architecture: Field required"),
        ("{", "Invalid JSON"),
        ('{"architecture": "test_vit"}', "has no weights file"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UsageError, match=message):
            load_model(spec)
