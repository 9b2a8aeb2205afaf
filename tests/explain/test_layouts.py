"""Weights of other libraries: the network of timm computes what the original one does, or the file is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from explain.original_networks import FROZEN, ORIGINALS, TIMM, Original, filled, images, states
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.explain.checkpoint import ModelConfig, load_checkpoint
from schemas.errors import UsageError

LISTED = {
    f"{name}, {names}": (ORIGINALS[name], entry)
    for name, entries in json.loads(FROZEN.read_text()).items()
    for names, entry in entries.items()
}


def write(folder: Path, weights: dict[str, Tensor], name: str = "model.safetensors") -> str:
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / name)
    return str(folder / name)


def load(original: Original, path: str, architecture: str | None = None, **options: Any) -> tuple[nn.Module, Any]:
    small = {} if original.architecture == "test_vit" else TIMM | original.arguments
    config = ModelConfig(architecture=architecture or original.architecture, model_args=small)
    return load_checkpoint(config, path, None, **options)


def output(model: Any) -> Tensor:
    times = model.patch_embed.img_size[0] // 32
    with torch.no_grad():
        return model.double().eval()(images().repeat(1, 1, times, times))


@pytest.mark.parametrize("case", LISTED)
def test_outputs_are_those_that_the_library_computed(tmp_path: Path, case: str) -> None:
    original, entry = LISTED[case]
    model, conversion = load(original, write(tmp_path, filled(entry["shapes"])))
    expected = torch.tensor(entry["output"], dtype=torch.float64)
    # Of registers, sums are rounded to float32 on loading; rotary angles are float32 in both libraries.
    tolerance = 1e-7 if original.architecture.endswith(("reg4_dinov2", "_qkvb")) else 1e-10
    torch.testing.assert_close(output(model)[:, :5], expected, rtol=tolerance, atol=tolerance)
    assert conversion is not None


@pytest.mark.parametrize("name", ORIGINALS)
def test_listed_names_and_outputs_are_those_of_the_library_today(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("open_clip")
    entries = json.loads(FROZEN.read_text())[name]
    for names, (weights, expected) in states(ORIGINALS[name]).items():
        assert {key: list(tensor.shape) for key, tensor in weights.items()} == entries[names]["shapes"]
        torch.testing.assert_close(expected[:, :5].tolist(), entries[names]["output"], rtol=1e-6, atol=1e-7)
        torch.save(weights, tmp_path / "a.pth")
        model, _ = load(ORIGINALS[name], str(tmp_path / "a.pth"))
        torch.testing.assert_close(output(model), expected, rtol=1e-7, atol=1e-7)


def case(name: str) -> tuple[Original, dict[str, Tensor]]:
    original, entry = LISTED[f"{name}, memory"]
    return original, filled(entry["shapes"])


@pytest.mark.parametrize("name", ["CLIP", "CLIP tower", "CLIP classifier"])
def test_clip_weights_under_a_name_with_another_activation_are_refused_with_the_right_name(
    tmp_path: Path, name: str
) -> None:
    original, weights = case(name)
    with pytest.raises(UsageError, match=r"quick_gelu unless .*; name vit_base_patch32_clip_quickgelu_224"):
        load(original, write(tmp_path, weights), architecture="vit_base_patch32_clip_224")


def test_a_config_json_of_transformers_says_what_the_weights_do_not(tmp_path: Path) -> None:
    original, weights = case("CLIP tower")
    path = write(tmp_path, weights)

    def config(**fields: Any) -> None:
        content = {"model_type": "clip", "vision_config": {"num_attention_heads": 4} | fields}
        (tmp_path / "config.json").write_text(json.dumps(content))

    config(hidden_act="gelu", layer_norm_eps=1e-3)
    model, conversion = load(original, path, architecture="vit_base_patch32_clip_224")
    assert (conversion.activation, conversion.epsilon) == ("gelu", 1e-3)
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-3}
    with pytest.raises(UsageError, match=r"gelu by the config beside it, .*; name vit_base_patch32_clip_224"):
        load(original, path)
    config(hidden_act="gelu", num_attention_heads=8)
    with pytest.raises(UsageError, match=r"has 8 heads by its config\.json, VisionTransformer has 4"):
        load(original, path)
    config(hidden_act="mish")
    with pytest.raises(UsageError, match="hidden_act is 'mish'"):
        load(original, path)


def test_what_was_done_is_recorded(tmp_path: Path) -> None:
    original, weights = case("SigLIP classifier")
    _, conversion = load(original, write(tmp_path, weights))
    assert conversion.layout == "transformers SigLIP classifier"
    assert conversion.left_out == ("vision_model.head.*",)
    assert (conversion.epsilon, conversion.activation) == (1e-6, "gelu_tanh")
    assert conversion.positions is None


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("ViT", "vit_small_patch16_rope_224"),
        ("DINOv2", "vit_tiny_patch16_224"),
        ("SigLIP tower", "vit_tiny_patch16_224"),
        ("CLIP tower", "vit_tiny_patch16_224"),
        ("torchvision", "eva02_tiny_patch14_224"),
        ("BEiT", "vit_tiny_patch16_224"),
    ],
)
def test_weights_of_another_network_are_refused_with_what_differs(tmp_path: Path, name: str, architecture: str) -> None:
    original, weights = case(name)
    with pytest.raises(UsageError, match=r"is not a checkpoint of .* under the names of .*(missing|unknown): .*\[.*\]"):
        load(original, write(tmp_path, weights), architecture=architecture)


def test_an_open_clip_config_says_what_the_weights_do_not(tmp_path: Path) -> None:
    original, weights = case("open_clip")
    path = write(tmp_path, weights)

    def config(quick_gelu: bool = False, **vision: Any) -> None:
        content = {"model_cfg": {"quick_gelu": quick_gelu, "vision_cfg": {"width": 32, "head_width": 8} | vision}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(content))

    for quick_gelu, right in ((True, "vit_base_patch32_clip_quickgelu_224"), (False, "vit_base_patch32_clip_224")):
        config(quick_gelu)
        load(original, path, architecture=right)
        wrong = {"vit_base_patch32_clip_224", "vit_base_patch32_clip_quickgelu_224"} - {right}
        with pytest.raises(UsageError, match=f"by the config beside it, .*; name {right}$"):
            load(original, path, architecture=wrong.pop())
    config(True, head_width=16)
    with pytest.raises(UsageError, match=r"has 2 heads by its config\.json, VisionTransformer has 4"):
        load(original, path)
    config(True, pool_type="avg")
    with pytest.raises(UsageError, match="pool_type is 'avg'"):
        load(original, path)


def test_images_of_torchvision_are_normalized_as_all_of_its_weights_are(tmp_path: Path) -> None:
    """The plain name in timm is that of other weights, with mean and deviation 0.5."""
    original, weights = case("torchvision")
    model: Any = load(original, write(tmp_path, weights))[0]
    assert model.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    assert model.pretrained_cfg["std"] == (0.229, 0.224, 0.225)


def test_the_same_file_in_another_precision_is_the_same_network(tmp_path: Path) -> None:
    original, weights = case("ViT")
    halves = {name: tensor.half() for name, tensor in weights.items()}
    model, _ = load(original, write(tmp_path, halves))
    same, _ = load(original, write(tmp_path, {name: tensor.float() for name, tensor in halves.items()}))
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "changes", "added"),
    [
        ("torchvision", {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}, {}),
        ("CLIP tower", {}, {"vision_model.embeddings.position_ids": torch.arange(17)[None]}),
        ("BEiT", {}, {"beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index":
                      torch.zeros(17, 17).long()}),
        ("open_clip", {}, {name: torch.tensor(77) for name in ("input_resolution", "context_length", "vocab_size")}),
        ("ViT", {"vit.": "model.vit.", "classifier.": "model.classifier."}, {}),
    ],
)  # fmt: skip
def test_files_of_older_versions_and_of_trainers_are_the_same_network(
    tmp_path: Path, name: str, changes: dict[str, str], added: dict[str, Tensor]
) -> None:
    original, weights = case(name)
    expected = output(load(original, write(tmp_path, weights))[0])
    renamed = {}
    for key, tensor in weights.items():
        for old, new in changes.items():
            key = key.replace(old, new)
        renamed[key] = tensor
    assert renamed.keys() != weights.keys() or added
    torch.testing.assert_close(output(load(original, write(tmp_path, renamed | added))[0]), expected)
