"""TS-CAM against its equations written out: the convolution patch by patch, attention from its matrices."""

import copy
from pathlib import Path

import pytest
import torch
from explicit import class_probabilities, forward
from safetensors.torch import save_file
from support import FAMILIES, artifact_record, family_anatomies, images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import TSCAM, UnsupportedMethod, describe, explain
from pipeline.explain.artifacts import write_artifact
from pipeline.explain.semantic_maps import BIAS, WEIGHT
from schemas.errors import UsageError

TARGETS = torch.tensor([[1, 7], [2, 2], [0, 9]])
BY_CLASS_TOKEN = [name for name, anatomy in family_anatomies().items() if anatomy.readout in ("token", "token+mean")]
OTHERS = [name for name in FAMILIES if name not in BY_CLASS_TOKEN]


def convolution(model: nn.Module, classes: int | None = None) -> dict[str, Tensor]:
    """Random weights."""
    generator, anatomy = torch.Generator().manual_seed(3), describe(model)
    weight = torch.randn(classes or anatomy.classes, anatomy.width, 3, 3, generator=generator, dtype=torch.float64)
    return {WEIGHT: weight, BIAS: torch.randn(len(weight), generator=generator, dtype=torch.float64)}


def written_out(model: nn.Module, images: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of all classes [B, C, h, w], and logits [B, C]."""
    found = forward(model, images)
    anatomy, places = found.anatomy, found.anatomy.patch_tokens
    rows, columns = anatomy.grid
    tokens = model.norm(found.outputs[-1][:, places])
    if anatomy.readout == "token":
        tokens = model.fc_norm(tokens)
    maps = bias[None, :, None, None].repeat(len(images), 1, rows, columns)
    for row in range(rows):
        for column in range(columns):
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= row + down < rows and 0 <= column + right < columns:
                        token = tokens[:, (row + down) * columns + column + right]
                        maps[:, :, row, column] += token @ weight[:, :, down + 1, right + 1].T
    attention = torch.stack([call.matrix[:, :, 0, places] for call in found.blocks]).mean((0, 2))
    return maps * attention.reshape(-1, 1, rows, columns), maps.mean((2, 3))


def check(model: nn.Module, other: nn.Module, file: Path) -> None:
    """The maps of an artifact on a model are those of the other network, written out."""
    images = images_for(model)
    weights = convolution(model)
    maps = explain(model, images, TARGETS, [TSCAM.load(file), "attention"])
    with torch.no_grad():
        expected, logits = written_out(other, images, weights[WEIGHT], weights[BIAS])
        probabilities = class_probabilities(other, logits)
    for image, targets in enumerate(TARGETS.tolist()):
        for place, target in enumerate(targets):
            assert torch.allclose(maps["tscam"][image, place], expected[image, target], rtol=1e-10, atol=1e-12)
            of_class = probabilities[image, target]
            assert maps.extra_outputs["tscam_probability"][image, place] == pytest.approx(float(of_class), rel=1e-9)
            rank = (logits[image] > logits[image, target]).sum()
            assert maps.extra_outputs["tscam_rank"][image, place] == rank
    assert torch.equal(maps["attention"], explain(model, images, TARGETS, "attention")["attention"])


@pytest.mark.parametrize("name", BY_CLASS_TOKEN)
def test_with_a_frozen_backbone_it_is_the_equation_on_the_network_that_is_given(name: str, tmp_path: Path) -> None:
    model = small_vit(**FAMILIES[name])
    write_artifact(tmp_path / "tscam.safetensors", convolution(model), artifact_record(model, "tscam"))
    check(model, model, tmp_path / "tscam.safetensors")


@pytest.mark.parametrize("name", BY_CLASS_TOKEN)
def test_fine_tuned_it_is_the_equation_on_its_own_network(name: str, tmp_path: Path) -> None:
    """Beside other methods, which see the network that is given."""
    model = small_vit(**FAMILIES[name])
    other = copy.deepcopy(model)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    network = {f"model.{name}": tensor for name, tensor in other.state_dict().items()}
    write_artifact(tmp_path / "tscam.safetensors", convolution(model) | network, artifact_record(model, "tscam"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check(model, other, tmp_path / "tscam.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_some_network_classifies_by_its_class_token_and_some_does_not() -> None:
    assert {"class token", "registers", "class token and mean"} <= set(BY_CLASS_TOKEN)
    assert {"mean", "mean beside an idle class token", "attention pool"} <= set(OTHERS)


@pytest.mark.parametrize("name", OTHERS)
def test_a_network_that_does_not_classify_by_a_class_token_is_refused(name: str, tmp_path: Path) -> None:
    model = small_vit(**FAMILIES[name])
    write_artifact(tmp_path / "tscam.safetensors", convolution(model), artifact_record(model, "tscam"))
    with pytest.raises(UnsupportedMethod, match="take a model that classifies by its class token"):
        explain(model, images_for(model), TARGETS, TSCAM.load(tmp_path / "tscam.safetensors"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    model, file = small_vit(), tmp_path / "tscam.safetensors"
    write_artifact(file, convolution(model), artifact_record(small_vit(depth=2), "tscam"))
    with pytest.raises(UnsupportedMethod, match=r"was trained for a model with other weights \(sha256:"):
        explain(model, images_for(model), TARGETS, TSCAM.load(file))
    write_artifact(file, convolution(model, classes=7), artifact_record(model, "tscam"))
    with pytest.raises(UnsupportedMethod, match=r"the shape \(7, 32, 3, 3\), and this model needs \(10, 32, 3, 3\)"):
        explain(model, images_for(model), TARGETS, TSCAM.load(file))
    write_artifact(file, convolution(model) | {"model.norm.weight": torch.ones(32)}, artifact_record(model, "tscam"))
    with pytest.raises(UsageError, match="its tensors do not fit the model of its record"):
        explain(model, images_for(model), TARGETS, TSCAM.load(file))


def test_files_that_are_not_of_ts_cam_are_refused(tmp_path: Path) -> None:
    model, file = small_vit(), tmp_path / "other.safetensors"
    with pytest.raises(UnsupportedMethod, match="tscam:artifact=FILE, or --artifact FILE"):
        explain(model, images_for(model), TARGETS, "tscam")
    save_file(convolution(model), file)  # without a record
    with pytest.raises(UsageError, match="is not an artifact of TS-CAM; make one with vitatlas train tscam"):
        TSCAM.load(file)
    write_artifact(file, {"weight": torch.ones(2)}, artifact_record(model, "tscam"))
    with pytest.raises(UsageError, match="is not an artifact of TS-CAM"):
        TSCAM.load(file)
    write_artifact(file, convolution(model), artifact_record(model, "pm"))
    with pytest.raises(UsageError, match="is an artifact of pm, not of tscam"):
        TSCAM.load(file)
