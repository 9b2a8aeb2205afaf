"""Folders of transformers and models on the hub: the network is derived from the weights and their configs."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from explain.original_networks import CASES, EPSILONS, PREPROCESSOR, folder, images
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.explain import load
from pipeline.explain.load import create_untrained, load_model
from pipeline.explain.weights_hash import weights_hash
from schemas.errors import UnsupportedModel, UsageError
from schemas.run import ModelSpec


def output_of(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.double()(images())[:, :5]


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(tuple(EPSILONS))])
def test_the_network_of_a_folder_is_derived(tmp_path: Path, case: str) -> None:
    for names in CASES[case]:
        spec = ModelSpec(name=folder(tmp_path, case, names), pretrained=True)
        model, options, conversion = load.load_weights(spec, has_head=True, check=lambda network: None)
        expected = torch.tensor(CASES[case][names]["output"], dtype=torch.float64)
        torch.testing.assert_close(output_of(model), expected, rtol=1e-7, atol=1e-7)
        assert options["num_heads"] == 4
        assert conversion is not None
        assert conversion.epsilon == EPSILONS[next(name for name in EPSILONS if case.startswith(name))]


def test_images_are_prepared_as_the_folder_says(tmp_path: Path) -> None:
    record = load_model(ModelSpec(name=folder(tmp_path, "ViT"), pretrained=True)).record
    assert (record.mean, record.std) == ((0.5, 0.5, 0.5), (0.2, 0.3, 0.4))
    assert (record.interpolation, record.crop_pct, record.crop_mode) == ("bilinear", 1.0, "squash")
    clip = PREPROCESSOR | {"do_center_crop": True, "size": {"shortest_edge": 256}, "crop_size": {"height": 224}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(clip | {"do_normalize": False}))
    record = load_model(ModelSpec(name=f"local-dir:{tmp_path}", pretrained=True)).record
    assert (record.mean, record.std) == ((0, 0, 0), (1, 1, 1))
    assert (record.crop_pct, record.crop_mode) == (224 / 256, "center")


def test_the_preparation_beside_a_checkpoint_of_a_named_network_counts(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=5)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    spec = ModelSpec(name="test_vit", checkpoint=str(tmp_path / "a.safetensors"))
    usual = load_model(spec).record
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    record = load_model(spec).record
    assert (usual.std, record.std) == ((0.5, 0.5, 0.5), (0.2, 0.3, 0.4))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("preprocessor_config.json", None, r"has no preprocessor_config.json beside it.*name a network of timm"),
        ("preprocessor_config.json", '{"size": 224}', "has no image_mean and image_std"),
        ("preprocessor_config.json", '{"image_std": [0, 1, 1]}', r"image_std\.0: "),
        ("preprocessor_config.json", '{"rescale_factor": 0.00784}', "multiplied by 0.00784, and only 1/255"),
        ("preprocessor_config.json", '{"do_rescale": false}', "multiplied by 1, and only 1/255 is supported"),
        ("config.json", '{"model_type": "vit"}', "do not tell what network it is of"),
        ("config.json", '{"model_type": "vit", "num_attention_heads": 5}', "timm cannot build it"),
        ("config.json", '{"model_type": "vit", "num_attention_heads": -4}', "num_attention_heads: "),
        ("config.json", '{"model_type": "vit", "layer_norm_eps": NaN}', "Invalid JSON|layer_norm_eps"),
        ("adapter_config.json", "{}", "holds adapters of peft, not a network; merge them first"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_tell_is_refused(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    name = folder(tmp_path, "ViT")
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(UsageError, match=message):
        load_model(ModelSpec(name=name, pretrained=True))


def test_a_backbone_needs_a_head(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no classifier"):
        load_model(ModelSpec(name=folder(tmp_path, "DINOv2 backbone"), pretrained=True))
    with pytest.raises(UnsupportedModel, match="embedding space"):
        load_model(ModelSpec(name=folder(tmp_path, "CLIP tower"), pretrained=True))


def test_a_classifier_made_of_a_tower_is_one_with_any_number_of_classes(tmp_path: Path) -> None:
    """512 is the length of CLIP's embeddings, too."""
    name, file = folder(tmp_path, "CLIP classifier"), tmp_path / "model.safetensors"
    classifier = {"classifier.weight": torch.ones(512, 32), "classifier.bias": torch.zeros(512)}
    save_file(load_file(file) | classifier, file)
    assert load_model(ModelSpec(name=name, pretrained=True)).anatomy.classes == 512


def test_a_model_on_the_hub_is_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        return folder(tmp_path, "ViT").removeprefix("local-dir:")

    monkeypatch.setattr("pipeline.explain.hub.snapshot_download", snapshot)
    model = load_model(ModelSpec(name="hf-hub:google/vit@v1", pretrained=True))
    assert model.record.weights == load_model(ModelSpec(name=f"local-dir:{tmp_path}", pretrained=True)).record.weights
    assert asked == [("google/vit", "v1")]
    assert weights_hash(create_untrained("hf-hub:google/vit")) != model.record.weights


@pytest.mark.parametrize(
    "name", ["hf-hub:google/vit-base-patch16-224", "hf-hub:../etc", "hf-hub:", "timm/no_such_model"]
)
def test_a_hub_that_cannot_be_reached_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UsageError, match=r"cannot be downloaded .*; download it where there is a network, and give"
    ) as error:
        load_model(ModelSpec(name=name, pretrained=True))
    assert len(str(error.value).splitlines()) == 1


def test_a_name_of_timm_on_the_hub_is_timms(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=5)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    loaded = load_model(ModelSpec(name="timm/test_vit.r160_in1k", checkpoint=str(tmp_path / "a.safetensors")))
    assert loaded.record.weights == weights_hash(model)
