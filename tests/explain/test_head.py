"""Heads apart from the backbone: files, what they refuse, and maps against those of the original libraries."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from golden_models import GOLDEN
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import images_for, random_head, small_vit
from torch import Tensor, nn

from pipeline.explain import Head, LeGrad, describe, explain
from pipeline.explain.weights_hash import weights_hash
from schemas.errors import UnsupportedMethod, UnsupportedModel, UsageError

OPEN = GOLDEN / "open"
MAPS = {
    "clip": {"legrad": "legrad_all_raw", "legrad_last2": "legrad_last2_raw", "grad_input": "grad_input"},
    "siglip": {"legrad": "legrad_all_norm_raw", "legrad_last2": "legrad_last2_norm_raw", "grad_input": "grad_input"},
    "dinov2": {
        "legrad": "legrad_all_proposed_raw",
        "legrad_last2": "legrad_last2_proposed_raw",
        "grad_input": "grad_input",
    },
}


def golden(case: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A golden backbone with its head, in float64, and what must come out."""
    config = json.loads((OPEN / f"{case}_config.json").read_text())
    model = timm.create_model(config["architecture"], **config["model_args"]).double().eval()
    model.load_state_dict(load_file(OPEN / f"{case}_backbone.safetensors"))
    return Head.load(OPEN / f"{case}_head.safetensors").attach(model), load_file(OPEN / f"{case}_cases.safetensors")


def all_classes(images: Tensor, classes: int) -> Tensor:
    return torch.arange(classes).repeat(len(images), 1)


def assert_close(computed: Tensor, expected: Tensor) -> None:
    assert (computed - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("case", MAPS)
def test_logits_and_maps_are_those_of_the_original_library(case: str) -> None:
    model, expected = golden(case)
    images = expected["images"]
    with torch.no_grad():
        logits = model(images)
    assert_close(logits, expected["logits"])
    activation = torch.sigmoid if case == "siglip" else lambda logits: logits.softmax(-1)
    assert_close(activation(logits), expected["probabilities"])
    classes = logits.shape[1]
    assert describe(model).classes == classes == len(model.head.classes)  # type: ignore[arg-type]
    targets = all_classes(images, classes)
    maps = explain(model, images, targets, ["legrad", LeGrad(layers="last2"), "grad_input"])
    for method, name in MAPS[case].items():
        assert_close(maps[method], expected[name])
    permuted = explain(model, images, targets.flip(1), ["legrad"])["legrad"]
    assert_close(permuted.flip(1), maps["legrad"])
    alone = explain(model, images, targets[:, 1:2], ["legrad"])["legrad"]
    assert torch.allclose(alone[:, 0], maps["legrad"][:, 1], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("layers", "count"), [("all", 4), ("last2", 2)])
def test_the_authors_code_of_legrad_for_siglip(layers: Any, count: int) -> None:
    """Their code sums the layers, scales each map on the grid to [0, 1], and then enlarges it."""
    model, expected = golden("siglip")
    images = expected["images"]
    code = LeGrad(layers=layers, score="cosine", no_final_norm=True)
    corrected = LeGrad(layers=layers, score="cosine", no_final_norm=True, empty_prompt=True)
    plain, zeroed = explain(model, images, all_classes(images, 3), [code, corrected]).values()
    assert_close(plain * count, expected[f"legrad_{layers}_nonorm_raw"])
    low, high = zeroed.amin((2, 3), keepdim=True), zeroed.amax((2, 3), keepdim=True)
    enlarged = F.interpolate((zeroed - low) / (high - low), scale_factor=8, mode="bilinear")
    assert_close(enlarged, expected[f"legrad_{layers}_corrected"])


def test_the_cosine_is_taken_behind_the_projection() -> None:
    """The logit is scale · cosine + bias, so its map is the cosine's, times the scale."""
    model, expected = golden("clip")
    images = expected["images"]
    logit, cosine = explain(model, images, all_classes(images, 4), ["legrad", "legrad:score=cosine"]).values()
    assert_close(cosine * model.head.scale, logit)


def test_what_the_authors_code_needs_is_said() -> None:
    model, expected = golden("clip")
    images, targets = expected["images"], expected["targets"]
    with pytest.raises(UnsupportedMethod, match="defined for an attention pooler"):
        explain(model, images, targets, "legrad:authors_code")
    head = random_head("texts, sigmoid")
    head.tensors.pop("empty")
    pooler = head.attach(small_vit(class_token=False, global_pool="map", num_classes=0))
    with pytest.raises(UnsupportedMethod, match="needs a head file with the tensor empty"):
        explain(pooler, images_for(pooler), torch.zeros(3, 1, dtype=torch.int64), "legrad:authors_code")


@pytest.mark.parametrize("kind", ["texts", "texts, sigmoid", "class token and mean"])
def test_a_saved_head_is_the_same_head(kind: str, tmp_path: Path) -> None:
    head = random_head(kind)
    head.save(tmp_path / "head.safetensors")
    loaded = Head.load(tmp_path / "head.safetensors")
    assert loaded.record == head.record
    assert loaded.digest == head.digest
    assert loaded.digest != random_head(kind, classes=tuple("abcdefghij")).digest


def test_a_head_is_written_over_no_other_file(tmp_path: Path) -> None:
    path, head = tmp_path / "model.safetensors", random_head("texts")
    for write in (lambda: save_file(head.tensors, path), lambda: path.write_bytes(b"PK weights")):
        write()
        before = path.read_bytes()
        with pytest.raises(UsageError, match=r"exists and is no head file; write to another file, or remove it"):
            head.save(path)
        assert path.read_bytes() == before
    path.unlink()
    head.save(path)
    head.save(path)
    assert Head.load(path).digest == head.digest


def test_metadata_of_other_programs_are_left_out(tmp_path: Path) -> None:
    head = random_head("texts")
    save_file(head.tensors, tmp_path / "head.safetensors", head.record.to_metadata() | {"made_by": "x"})
    assert Head.load(tmp_path / "head.safetensors").record == head.record


def test_ten_thousand_classes_with_one_name_twice(tmp_path: Path) -> None:
    names = (*(f"class {index}" for index in range(9_999)), "class 0")
    text = F.normalize(torch.randn(10_000, 24), dim=1)
    head = random_head("texts", classes=names)
    save_file({"text": text}, tmp_path / "head.safetensors", head.record.to_metadata())
    model = Head.load(tmp_path / "head.safetensors").attach(
        small_vit("vit_base_patch16_clip_quickgelu_224", num_classes=24)
    )
    assert describe(model).classes == 10_000
    assert model(images_for(model)).shape == (3, 10_000)


UNIT = F.normalize(torch.ones(10, 24), dim=1)
FAULTS: list[tuple[str, dict[str, str], dict[str, Tensor | None], str]] = [
    ("texts, sigmoid", {}, {"logit_scale": torch.tensor(4.74)}, "looks like the logarithm of the factor; write .* 114"),
    ("texts", {}, {"logit_scale": torch.tensor(2.66)}, "looks like the logarithm of the factor; write .* 14.3"),
    ("texts", {}, {"logit_scale": torch.tensor(-1.0)}, "logit_scale is -1; it must be above 0"),
    ("texts", {}, {"text": 3 * UNIT}, "text has rows whose norm is not 1"),
    ("texts", {}, {"text": UNIT[:9]}, "text has 9 rows for 10 class names"),
    ("texts", {}, {"text": UNIT * float("nan")}, "text has values that are not finite"),
    ("texts", {}, {"text": UNIT[0]}, r"text has shape \[24\]"),
    ("texts", {}, {"text": None}, "has no tensor text"),
    ("texts", {}, {"empty": UNIT[:1, :9]}, "empty has 9 columns, text 24"),
    ("texts", {}, {"logit_bias": torch.zeros(3)}, "logit_bias has 3 values for 10 classes"),
    ("texts", {}, {"weight": UNIT}, "has unknown tensors weight"),
    ("texts", {}, {"projection": torch.ones(24, 32)}, "its tensor projection says otherwise"),
    ("texts", {"projection": "tensor"}, {"projection": torch.ones(24, 31)}, r"text and read-out need \[24, 32\]"),
    ("texts", {"projection": "none"}, {}, "text has 24 columns, the read-out 32 features"),
    ("texts", {"normalise": "none"}, {}, "normalise must be l2"),
    ("texts", {"format": "head/2"}, {}, "format is 'head/2'; this version reads head/1"),
    ("texts", {"format": "head/12"}, {}, "format is 'head/12'; this version reads head/1"),
    ("texts", {"classes": "a, b"}, {}, "classes: is not JSON"),
    ("texts", {"classes": json.dumps([" ", *"bcdefghij"])}, {}, "class 0 is named ' '; give it a name in one line"),
    ("texts", {"classes": json.dumps(["a", "b\nc", *"cdefghij"])}, {}, r"class 1 is named 'b\\nc'; give it"),
    ("texts", {"classes": "[" * 100_000}, {}, "classes: is not JSON"),
    ("texts", {"read_out": "tokens_last4"}, {}, "read_out: "),
    ("texts", {"kind": "other"}, {}, "kind: "),
    ("texts", {"prompts": '[["a"]]'}, {}, "there are prompts for 1 classes, not for 10"),
    ("class token and mean", {"read_out": "token"}, {}, "weight has 64 columns; read_out token .* gives 32 features"),
    ("class token and mean", {}, {"bias": torch.zeros(4)}, "bias has 4 values for 10 classes"),
    ("class token and mean", {}, {"bias": torch.zeros(10, dtype=torch.int64)}, "it must be a floating-point tensor"),
    ("class token and mean", {"parts": '["mean_patches", "cls"]'}, {}, "only .* with read_out token.mean"),
]


@pytest.mark.parametrize(("kind", "metadata", "tensors", "message"), FAULTS)
def test_a_wrong_head_file_is_refused(
    kind: str, metadata: dict[str, str], tensors: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    head = random_head(kind)
    changed = {name: tensor for name, tensor in (head.tensors | tensors).items() if tensor is not None}
    file = tmp_path / "head.safetensors"
    contiguous = {name: tensor.contiguous() for name, tensor in changed.items()}
    save_file(contiguous, file, head.record.to_metadata() | metadata)
    with pytest.raises(UsageError, match=message) as caught:
        Head.load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_head_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        Head.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("a text")
    with pytest.raises(UsageError, match="cannot be read as safetensors"):
        Head.load(tmp_path / "text")
    save_file({"a": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(UsageError, match="is not a head file"):
        Head.load(tmp_path / "other")


CLIP = {"name": "vit_base_patch16_clip_quickgelu_224", "num_classes": 24}
MISFITS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("texts", {}, {"name": "vit_tiny_patch16_224", "embed_dim": 48}, "tokens are 48 wide; the head was made for 32"),
    ("texts", {}, {**CLIP, "num_classes": 10}, "its projection has 10 outputs, the texts 24"),
    ("texts", {}, {**CLIP, "num_classes": 0}, "own head.weight, and it has none"),
    ("texts", {"mean": (0.5, 0.5, 0.5)}, CLIP, "images of mean"),
    ("texts", {"activation_function": "GELU"}, CLIP, "backbone with GELU, this one has QuickGELU"),
    (
        "texts",
        {},
        {**CLIP, "name": "vit_base_patch16_clip_224.openai"},
        "trained with QuickGELU .* name vit_base_patch16_clip_quickgelu_224.openai",
    ),
    ("texts", {"backbone_sha256": "sha256:" + 64 * "0"}, CLIP, "made for the backbone"),
    ("texts", {}, {"class_token": False, "global_pool": "map", "num_classes": 24}, "reads out pool; .* made for token"),
    ("texts, sigmoid", {}, {"num_classes": 0}, "reads out token; the head was made for pool"),
    ("class token and mean", {}, {"name": "deit_tiny_distilled_patch16_224"}, "two classifiers"),
    ("class token and mean", {}, {"global_pool": "avg"}, "its final norm follows the mean"),
    ("class token and mean", {}, {"class_token": False, "global_pool": "avg", "fc_norm": False}, "no class token"),
]


@pytest.mark.parametrize(("kind", "changes", "network", "message"), MISFITS)
def test_a_head_for_another_network_is_refused(
    kind: str, changes: dict[str, Any], network: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        random_head(kind, **changes).attach(small_vit(**network))


def test_a_linear_head_reads_the_mean_of_a_network_that_reads_its_class_token() -> None:
    model = small_vit(num_classes=0)
    weight = torch.randn(10, 32, dtype=torch.float64)
    head = random_head("class token and mean", read_out="mean")
    head.tensors.clear()
    head.tensors["weight"] = weight
    images = images_for(model)
    with torch.no_grad():
        expected = model.forward_features(images)[:, 1:].mean(1) @ weight.T
        assert torch.allclose(head.attach(model)(images), expected, rtol=1e-12, atol=0)
    assert describe(model).readout == "mean"


def test_another_head_replaces_the_first() -> None:
    """The projection stays; read-outs follow."""
    model, images = small_vit(**CLIP), images_for(small_vit(**CLIP))
    expected = random_head("texts").attach(small_vit(**CLIP))(images)
    random_head("texts").attach(random_head("texts").attach(model))
    assert torch.equal(model(images), expected)
    dino = small_vit(reg_tokens=3, num_classes=0)
    random_head("class token and mean").attach(dino)
    assert describe(dino).readout == "token+mean"
    token = random_head("class token and mean", read_out="token")
    token.tensors["weight"] = token.tensors["weight"][:, :32]
    assert describe(token.attach(dino)).readout == "token"


def test_the_hash_of_the_weights_covers_all_that_a_head_decides() -> None:
    hashes = set()
    for changes in ({}, {"activation": "sigmoid"}, {"classes": tuple("abcdefghij")}):
        hashes.add(weights_hash(random_head("texts", **changes).attach(small_vit(**CLIP))))
    head = random_head("texts")
    head.tensors["logit_scale"] = torch.tensor(13.0)
    hashes.add(weights_hash(head.attach(small_vit(**CLIP))))
    hashes.add(weights_hash(small_vit(**CLIP)))
    assert len(hashes) == 5


def test_the_metadata_are_strings_that_other_programs_read(tmp_path: Path) -> None:
    random_head("texts").save(tmp_path / "head.safetensors")
    with safe_open(tmp_path / "head.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["classes"])[0] == "class 0"
    assert (metadata["kind"], metadata["input_width"], metadata["normalise"]) == ("zero_shot", "32", "l2")
