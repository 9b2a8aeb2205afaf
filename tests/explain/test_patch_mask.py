"""Patch-level read-outs against the classifier at patch tokens, with trained and with unchanged weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from explicit import class_probabilities
from safetensors.torch import save_file
from support import artifact_record, images_for, small_vit
from torch import nn
from torch.overrides import TorchFunctionMode

from pipeline.explain import PatchMask, UnsupportedMethod, describe, explain
from pipeline.explain.artifacts import write_artifact
from pipeline.explain.head_modules import ZeroShotHead
from pipeline.explain.readout import patch_logits
from schemas.errors import UsageError

TARGETS = torch.tensor([[1, 7], [2, 2], [0, 9]])


def tuned(model: nn.Module) -> nn.Module:
    """The network after some training."""
    other = copy.deepcopy(model)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return other


def test_pm_is_the_read_out_of_its_own_weights(family: nn.Module, tmp_path: Path) -> None:
    """Beside other methods, which see the network that was given."""
    other, images = tuned(family), images_for(family)
    write_artifact(tmp_path / "pm.safetensors", other.state_dict(), artifact_record(family, "pm"))
    maps = explain(family, images, TARGETS, [PatchMask.load(tmp_path / "pm.safetensors"), "pm_zs", "attention"])
    assert torch.allclose(maps["pm"], explain(other, images, TARGETS, "pm_zs")["pm_zs"], atol=1e-12)
    assert torch.equal(maps["pm_zs"], explain(family, images, TARGETS, "pm_zs")["pm_zs"])
    assert torch.equal(maps["attention"], explain(family, images, TARGETS, "attention")["attention"])
    with torch.no_grad():
        expected = class_probabilities(other, other(images)).gather(1, TARGETS)
    assert torch.allclose(maps.extra_outputs["pm_probability"], expected, atol=1e-12)


class _Alone(TorchFunctionMode):
    """Fused attention in which every token sees itself only."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            count = args[0].shape[2]
            kwargs = kwargs | {"attn_mask": torch.eye(count, dtype=torch.bool)}
        return func(*args, **kwargs)


def test_pm_value_lets_each_patch_attend_to_itself_alone(family: nn.Module) -> None:
    anatomy, images = describe(family), images_for(family)
    inputs = []
    last = family.blocks[-1]
    handle = last.register_forward_pre_hook(
        lambda module, args, options: inputs.append((args, options)), with_kwargs=True
    )
    with torch.no_grad():
        family(images)
        handle.remove()
        (args, options) = inputs[0]
        with _Alone():
            tokens = last(*args, **options)
        logits = patch_logits(family, anatomy, tokens[:, anatomy.patch_tokens])
    similarity = isinstance(family.head, ZeroShotHead)  # scaled for a comparison: read as the head reads the image
    values = class_probabilities(family, logits) if similarity else logits.sigmoid()
    expected = values.gather(2, TARGETS[:, None].expand(-1, anatomy.patches, -1)).transpose(1, 2)
    computed = explain(family, images, TARGETS, "pm_value")["pm_value"]
    assert torch.allclose(computed.flatten(2), expected, atol=1e-10)


def test_the_mean_over_patches_is_the_logit_where_the_norm_comes_first() -> None:
    model = small_vit(class_token=False, global_pool="avg", fc_norm=False)
    images = images_for(model)
    maps = explain(model, images, TARGETS, "pm_zs")["pm_zs"]
    with torch.no_grad():
        assert torch.allclose(maps.logit().mean((2, 3)), model(images).gather(1, TARGETS), atol=1e-10)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    model = small_vit()
    write_artifact(tmp_path / "pm.safetensors", tuned(model).state_dict(), artifact_record(tuned(model), "pm"))
    with pytest.raises(UnsupportedMethod, match=r"was trained for a model with other weights \(sha256:"):
        explain(model, images_for(model), TARGETS, PatchMask.load(tmp_path / "pm.safetensors"))


def test_files_that_are_not_of_pm_are_refused(tmp_path: Path) -> None:
    model = small_vit()
    with pytest.raises(UnsupportedMethod, match="pm:artifact=FILE, or --artifact FILE"):
        explain(model, images_for(model), TARGETS, "pm")
    save_file(model.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(UsageError, match="does not record the network that it was trained from"):
        PatchMask.load(tmp_path / "bare.safetensors")
    write_artifact(tmp_path / "gates.safetensors", model.state_dict(), artifact_record(model, "diffmask"))
    with pytest.raises(UsageError, match="is an artifact of diffmask, not of pm"):
        PatchMask.load(tmp_path / "gates.safetensors")


def test_a_file_that_was_trained_anew_is_read_anew(tmp_path: Path) -> None:
    model, images = small_vit(), images_for(small_vit())
    file = tmp_path / "pm.safetensors"
    write_artifact(file, tuned(model).state_dict(), artifact_record(model, "pm"))
    first = explain(model, images, TARGETS, PatchMask.load(file))["pm"]
    write_artifact(file, model.state_dict(), artifact_record(model, "pm"))
    second = explain(model, images, TARGETS, PatchMask.load(file))["pm"]
    assert not torch.equal(first, second)
    assert torch.allclose(second, explain(model, images, TARGETS, "pm_zs")["pm_zs"], atol=1e-12)
