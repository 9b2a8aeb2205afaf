"""``vitatlas head extract``: classifiers out of checkpoints, against the formula on the features of the network."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from some_networks import TIMM, random_images, small_network
from support import images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import Head
from pipeline.explain.checkpoint import ModelConfig, load_checkpoint
from pipeline.head.extract import extract_head
from schemas.errors import UsageError

WIDTH, CLASSES = 32, 7


def matrix(columns: int, seed: int = 3) -> Tensor:
    return torch.randn(CLASSES, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BIAS = torch.linspace(-1, 1, CLASSES, dtype=torch.float64)


def backbone(**options: Any) -> nn.Module:
    return small_vit(reg_tokens=3, init_values=0.1, num_classes=0, **options)


def token_and_mean(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Class token and mean of the patches, behind the final norm."""
    with torch.no_grad():
        tokens = model.forward_features(images)  # type: ignore[operator]
    return tokens[:, 0], tokens[:, model.num_prefix_tokens :].mean(1)


def extracted_logits(path: Path, model: nn.Module, images: Tensor, **options: Any) -> Tensor:
    head = extract_head(str(path), **options)
    head.save(path.with_name("head.safetensors"))
    with torch.no_grad():
        return Head.load(path.with_name("head.safetensors")).attach(model)(images)


@pytest.mark.parametrize("prefix", ["", "linear.", "module.linear.", "fc.", "classifier.", "head.", "model.head.fc."])
def test_a_probe_of_class_token_and_mean(prefix: str, tmp_path: Path) -> None:
    """DINOv2's and DINOv3's linear heads of one block: [class token ; mean of the patches] (hub/classifiers.py)."""
    model, weight = backbone(), matrix(2 * WIDTH)
    images = images_for(model)
    torch.save({f"{prefix}weight": weight, f"{prefix}bias": BIAS}, tmp_path / "head.pth")
    logits = extracted_logits(tmp_path / "head.pth", model, images, read_out="token+mean")
    expected = torch.cat(token_and_mean(backbone(), images), 1) @ weight.T + BIAS
    assert torch.allclose(logits, expected, rtol=0, atol=1e-12)


def test_an_interleaved_probe(tmp_path: Path) -> None:
    """DINO, eval_linear.py: cat of class token and mean along a new last axis, which is then flattened."""
    model, weight = backbone(), matrix(2 * WIDTH)
    images = images_for(model)
    state = {"module.linear.weight": weight, "module.linear.bias": BIAS}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "linearweights.pth")
    logits = extracted_logits(tmp_path / "linearweights.pth", model, images, read_out="interleaved")
    features = torch.stack(token_and_mean(backbone(), images), -1).flatten(1)
    assert torch.allclose(logits, features @ weight.T + BIAS, rtol=0, atol=1e-12)


def test_the_batch_norm_in_front_of_a_probe_is_folded_into_it(tmp_path: Path) -> None:
    """MAE, main_linprobe.py: BatchNorm1d(affine=False, eps=1e-6), then a linear layer, on the class token."""
    model = small_vit(num_classes=0)
    norm = nn.BatchNorm1d(WIDTH, affine=False, eps=1e-6).double()
    norm.running_mean, norm.running_var = matrix(WIDTH)[0], matrix(WIDTH)[1].square()
    probe = nn.Sequential(norm, nn.Linear(WIDTH, CLASSES).double()).eval()
    state = {**model.state_dict(), **{f"head.{name}": tensor for name, tensor in probe.state_dict().items()}}
    torch.save({"model": state, "epoch": 89}, tmp_path / "linprobe.pth")
    images = images_for(model)
    with torch.no_grad():
        expected = probe(token_and_mean(model, images)[0])
    assert torch.allclose(extracted_logits(tmp_path / "linprobe.pth", model, images), expected, rtol=0, atol=1e-12)


def log_of_probes(path: Path) -> Path:
    """A log of DINOv2's evaluation, with probes of one and of four blocks."""
    state = {}
    for blocks, mean, columns in ((1, False, 1), (1, True, 2), (4, False, 4), (4, True, 5)):
        name = f"module.classifiers_dict.classifier_{blocks}_blocks_avgpool_{mean}_lr_0_00500.linear"
        state |= {f"{name}.weight": matrix(columns * WIDTH, columns), f"{name}.bias": BIAS}
    torch.save({"model": state, "iteration": 12499}, path)
    return path


@pytest.mark.parametrize(("mean", "columns"), [(False, 1), (True, 2)])
def test_a_probe_among_many_reads_what_its_name_says(mean: bool, columns: int, tmp_path: Path) -> None:
    model, images = backbone(), images_for(backbone())
    path = log_of_probes(tmp_path / "final.pth")
    logits = extracted_logits(path, model, images, name=f"classifier_1_blocks_avgpool_{mean}_lr_0_00500")
    features = torch.cat(token_and_mean(backbone(), images)[:columns], 1)
    assert torch.allclose(logits, features @ matrix(columns * WIDTH, columns).T + BIAS, rtol=0, atol=1e-12)


NETWORKS: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean, fc_norm": {"global_pool": "avg"},
    "mean": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "attention pool": {"class_token": False, "global_pool": "map"},
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
def test_a_whole_network_says_what_its_classifier_reads(network: str, prefix: str, tmp_path: Path) -> None:
    model = small_vit(**NETWORKS[network])
    save_file({f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "net.safetensors")
    images = images_for(model)
    with torch.no_grad():
        expected = model(images)
    bare = small_vit(**NETWORKS[network])
    bare.reset_classifier(0)  # type: ignore[operator]
    assert torch.equal(extracted_logits(tmp_path / "net.safetensors", bare, images), expected)


def test_the_classifier_of_a_network_of_stages_reads_the_width_of_the_last(tmp_path: Path) -> None:
    model = small_network("swin_tiny_patch4_window7_224")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    images = random_images()
    with torch.no_grad():
        expected = model(images)
        head = extract_head(str(tmp_path / "model.safetensors"))
        other = timm.create_model(
            "swin_tiny_patch4_window7_224", **TIMM["swin_tiny_patch4_window7_224"], num_classes=0
        ).double()
        other.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "head.fc" not in name})
        assert torch.equal(head.attach(other.eval())(images), expected)
    assert (head.record.read_out, head.record.input_width) == ("mean", 64)


def test_a_config_beside_the_file_says_what_its_classifier_reads(tmp_path: Path) -> None:
    """A mean without a norm of its own has the same tensors as a class token."""
    model = small_vit(global_pool="avg", fc_norm=False)
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    assert extract_head(str(path)).record.read_out == "token"
    config = {"architecture": "vit_tiny_patch16_224", "global_pool": "avg"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert extract_head(str(path)).record.read_out == "mean"
    images = images_for(model)
    with torch.no_grad():
        expected = model(images)
    bare = small_vit(num_classes=0)
    bare.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "head" not in name})
    assert torch.allclose(extracted_logits(path, bare, images), expected, rtol=0, atol=1e-12)


HUGGING_FACE = {
    "vit": (("embeddings.cls_token", "encoder.layer.0.layernorm_before.weight"), 8, "token"),
    "dinov2": (("encoder.layer.0.layer_scale1.lambda1", "embeddings.position_embeddings"), 16, "token+mean"),
    "beit": (("encoder.layer.0.lambda_1", "layernorm_before.weight", "pooler.layernorm.weight"), 8, "mean"),
    "vision_model": (("head.probe",), 8, "mean"),
}
"""Names of tensors that ``save_pretrained`` writes. The classifier of DINOv2 reads both features."""


@pytest.mark.parametrize("family", HUGGING_FACE)
def test_a_fine_tuned_network_of_transformers(family: str, tmp_path: Path) -> None:
    marks, columns, read_out = HUGGING_FACE[family]
    base = marks[0].partition(".")[0]
    patches = "patch_embedding" if family == "siglip" else "patch_embeddings.projection"
    state = {name: torch.ones(1, 1, 8) for name in marks} | {
        f"{base}.embeddings.{patches}.weight": torch.ones(8, 3, 4, 4)
    }
    save_file(state | {"classifier.weight": matrix(columns), "classifier.bias": BIAS}, tmp_path / "model.safetensors")
    head = extract_head(str(tmp_path / "model.safetensors"))
    assert (head.record.read_out, head.record.input_width) == (read_out, 8)
    assert torch.equal(head.tensors["weight"], matrix(columns))


@pytest.mark.parametrize("family", ["ViT", "Dinov2", "Dinov2WithRegisters", "Beit", "Siglip"])
def test_logits_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    """The classifier goes on the backbone of the same file, loaded apart."""
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"image_size": 48, "patch_size": 8}
    options: dict[str, Any] = {"vision_config": shape} if family == "Siglip" else shape
    shape |= {"use_relative_position_bias": True} if family == "Beit" else {}
    config = getattr(transformers, f"{family}Config")(**options, num_labels=CLASSES)
    model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 or "bias" in name:
            nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    name = {"Beit": "beit_base_patch16_224", "Siglip": "vit_base_patch32_siglip_gap_256"}.get(family)
    sizes = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    arguments = sizes | {"ViT": {}, "Beit": {}, "Siglip": {}}.get(family, {"init_values": 1.0})
    if family == "Dinov2WithRegisters":
        arguments |= {"reg_tokens": 4, "no_embed_class": True}
    architecture = ModelConfig(architecture=name or "vit_tiny_patch16_224", model_args=arguments)
    backbone, _ = load_checkpoint(architecture, str(path), None)
    backbone.reset_classifier(3)  # type: ignore[operator]
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(pixel_values=images).logits
    assert torch.allclose(extracted_logits(path, backbone.eval(), images), expected, rtol=0, atol=1e-4)


CLIP = {
    "vision_model.embeddings.class_embedding": BIAS,
    "vision_model.pre_layrnorm.weight": BIAS,
    "classifier.weight": matrix(8),
}
PATCHES = {"patch_embed.proj.weight": torch.ones(8, 3, 4, 4)}
REFUSED: dict[str, tuple[dict[str, Tensor], dict[str, Any], str]] = {
    "a width that decides nothing": ({"weight": matrix(1536)}, {}, "has 1536 columns, which do not say .* --read-out"),
    "an odd width": ({"weight": matrix(33)}, {"read_out": "token+mean"}, "33 columns; that is not token.mean"),
    "registers": (
        {**PATCHES, "norm.weight": BIAS, "cls_token": BIAS, "reg_token": BIAS, "head.weight": matrix(8)},
        {},
        "--read-out token or mean or pool",
    ),
    "another read-out than the width": (
        {**PATCHES, "head.weight": matrix(8)},
        {"read_out": "token+mean"},
        "8 columns and the tokens are 8 wide; that is not token.mean",
    ),
    "no read-out of that width": ({**PATCHES, "head.weight": matrix(24)}, {}, "no read-out has so many features"),
    "four blocks": ({**PATCHES, "head.weight": matrix(40)}, {}, "head reads several blocks"),
    "patches in front of the norm": (CLIP, {"read_out": "mean"}, "in front of the final norm"),
    "the distillation token": (
        {"head.weight": matrix(8), "head_dist.weight": matrix(8)},
        {"name": "head_dist", "read_out": "token"},
        "head_dist reads the distillation token",
    ),
    "two classifiers": (
        {"head.weight": matrix(8), "head_dist.weight": matrix(8)},
        {},
        "several classifiers, head, head_dist; choose one with --name",
    ),
    "no classifier": ({"blocks.0.fc1.weight": matrix(8)}, {}, "its linear layers are blocks.0.fc1; choose one with"),
    "no class": ({"head.weight": torch.zeros(0, 16)}, {"read_out": "token"}, "it has no matrix"),
    "no matrix": ({"head.bias": BIAS}, {}, "it has no matrix"),
    "a name that is not there": (
        {"head.weight": matrix(8)},
        {"name": "hed"},
        "no linear layer 'hed'; did you mean head",
    ),
    "other classes": ({"head.weight": matrix(8)}, {"classes": ("a", "b")}, "head has 7 classes, and --classes 2 names"),
    "a classifier of two layers": (
        {"head.0.weight": matrix(8), "head.2.weight": matrix(7)},
        {"name": "head.2", "read_out": "token"},
        "head.2 is the last of several layers",
    ),
    "a bias of another length": ({"head.weight": matrix(8), "head.bias": BIAS[:2]}, {}, "bias of head has shape"),
    "a projection": (
        {"norm_pre.weight": BIAS, "head.weight": torch.ones(512, 8)},
        {"read_out": "token"},
        "seems to be the projection of an image–text tower",
    ),
    "values that are not finite": ({"weight": matrix(8) * torch.nan}, {"read_out": "token"}, "not finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_head_or_undecided_is_refused(case: str, tmp_path: Path) -> None:
    tensors, options, says = REFUSED[case]
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    with pytest.raises(UsageError, match=says) as caught:
        extract_head(str(path), **options).save(tmp_path / "head.safetensors")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "head.safetensors").exists()


@pytest.mark.parametrize("blocks", ["4_blocks_avgpool_False", "4_blocks_avgpool_True"])
def test_a_probe_of_four_blocks_is_refused(blocks: str, tmp_path: Path) -> None:
    path = log_of_probes(tmp_path / "final.pth")
    with pytest.raises(UsageError, match="reads several blocks, and a head file only the last"):
        extract_head(str(path), f"classifier_{blocks}_lr_0_00500")
    with pytest.raises(UsageError, match="several classifiers, classifier_1_blocks"):
        extract_head(str(path))
    with pytest.raises(UsageError, match="reads token, by its name; leave out --read-out mean"):
        extract_head(str(path), "classifier_1_blocks_avgpool_False_lr_0_00500", "mean")


def test_the_command_writes_a_head_file_with_class_names(vitatlas, tmp_path: Path) -> None:
    names = [f"name {index}" for index in range(CLASSES)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    save_file({"fc.weight": matrix(8), "fc.bias": BIAS}, tmp_path / "probe.safetensors")
    given = ["--checkpoint", tmp_path / "probe.safetensors", "--read-out", "token", "--out", tmp_path / "head.st"]
    code, printed, err = vitatlas("head", "extract", *given, "--classes", tmp_path / "names.txt")
    assert code == 0, err
    assert "7 classes: name 0" in printed
    head = Head.load(tmp_path / "head.st")
    assert head.classes == tuple(names)
    assert torch.equal(head.tensors["weight"], load_file(tmp_path / "probe.safetensors")["fc.weight"])
    assert head.record.provenance.startswith("fc of probe.safetensors, tensors sha256:")


def test_a_file_that_would_run_code_is_not_read(vitatlas, tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit"), tmp_path / "model.pth")
    code, _, err = vitatlas("head", "extract", "--checkpoint", tmp_path / "model.pth", "--out", tmp_path / "head")
    assert code == 2
    assert "holds Python objects" in err
    assert not (tmp_path / "head").exists()
