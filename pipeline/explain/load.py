"""Loading of timm models, with pretrained weights or a checkpoint."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from torch import nn

from pipeline.explain.anatomy import Anatomy, describe
from schemas.errors import UsageError
from schemas.run import ModelRecord, ModelSpec
from schemas.text import suggest

LOCAL = "local-dir:"


@dataclass(frozen=True)
class LoadedModel:
    """A model with its description. ``load_model`` returns it in evaluation mode, on the CPU, in float32."""

    model: nn.Module
    anatomy: Anatomy
    record: ModelRecord


def load_model(spec: ModelSpec) -> LoadedModel:
    """Build a model and load its weights.

    Raises:
        UsageError: no such model, no such weights, or weights of another architecture.
        UnsupportedModel: see ``describe``.
    """
    model = (
        _from_checkpoint(spec.name, spec.checkpoint) if spec.checkpoint else create_model(spec.name, pretrained=True)
    )
    return describe_loaded(spec.name, model.float().eval())


def describe_loaded(name: str, model: nn.Module) -> LoadedModel:
    """Describe a model for the records of a run.

    Args:
        name: timm name.
        model: the network.

    Raises:
        UsageError: it does not take RGB images.
        UnsupportedModel: see ``describe``.
    """
    anatomy = describe(model)
    config = resolve_model_data_config(model)
    if len(config["mean"]) != 3:
        raise UsageError(f"{name}: takes {len(config['mean'])} channels; only RGB is supported")
    record = ModelRecord(
        name=name,
        network=type(model).__name__,
        options=_constructor_options(name),
        weights=weights_hash(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        classes=anatomy.classes,
        input_size=anatomy.input_size,
        grid=anatomy.grid,
        prefix_tokens=anatomy.prefix_tokens,
        readout=anatomy.readout,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
    )
    return LoadedModel(model, anatomy, record)


def _constructor_options(name: str) -> dict[str, Any]:
    """Return what the ``config.json`` of a local folder says on the network; the weights do not show all of it."""
    if not name.startswith(LOCAL):
        return {}
    config = json.loads(Path(name.removeprefix(LOCAL), "config.json").read_bytes())
    return {"architecture": config.get("architecture")} | (config.get("model_args") or {})


def absolute_model_name(name: str) -> str:
    """Return the name of a model with an absolute path in place of a relative one."""
    return LOCAL + os.path.abspath(name.removeprefix(LOCAL)) if name.startswith(LOCAL) else name


def absolute_model_spec(spec: ModelSpec) -> ModelSpec:
    """Return the model spec with absolute paths, valid in every process and from every folder."""
    checkpoint = os.path.abspath(spec.checkpoint) if spec.checkpoint else None
    return spec.model_copy(update={"name": absolute_model_name(spec.name), "checkpoint": checkpoint})


def weights_hash(model: nn.Module) -> str:
    """Compute SHA-256 over all tensors: name, dtype, shape and bytes of each, in the order of the names.

    Floating-point tensors are converted to float32, so that the hash does not depend on the precision.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return "sha256:" + digest.hexdigest()


def create_model(name: str, **options: Any) -> nn.Module:
    """Create a timm model, by default with random weights.

    Args:
        name: timm name, or ``local-dir:`` and a folder.
        options: of ``timm.create_model``.

    Raises:
        UsageError: there is no such model, it cannot be built, or its weights cannot be loaded.
    """
    if name.startswith(LOCAL):
        folder = name.removeprefix(LOCAL)
        if not os.path.isfile(os.path.join(folder, "config.json")):
            raise UsageError(f"{name}: there is no config.json in that folder; name a folder saved by timm")
    elif not timm.is_model(name.partition(".")[0]):
        hint = suggest(name, timm.list_models(), 0.6)
        raise UsageError(f"timm has no model {name!r}{hint or '; see timm.list_models()'}")
    try:
        return timm.create_model(name, **options)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        if not options.get("pretrained"):
            raise UsageError(f"{name}: timm cannot build it ({type(error).__name__}: {reason})") from error
        raise UsageError(
            f"{name}: its pretrained weights cannot be loaded ({type(error).__name__}: {reason}); "
            "give them with --checkpoint FILE"
        ) from error


def _from_checkpoint(name: str, path: str) -> nn.Module:
    if not path.endswith(".safetensors"):
        raise UsageError(f"{path}: is not a .safetensors file; other formats can run code when they are opened")
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check the path") from None
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: cannot be read as safetensors ({error})") from None
    options: dict[str, Any] = {}
    if "head.weight" in weights and weights["head.weight"].ndim == 2:  # fine-tuned: its own number of classes
        options["num_classes"] = len(weights["head.weight"])
    model = create_model(name, **options)
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    misshapen = [key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape]
    if missing or unknown or misshapen:
        faults = [
            f"{len(keys)} tensors are {fault} (such as {keys[0]})"
            for keys, fault in ((missing, "missing"), (unknown, "unknown"), (sorted(misshapen), "of another shape"))
            if keys
        ]
        raise UsageError(f"{path}: is not a checkpoint of {name}: {', '.join(faults)}")
    model.load_state_dict(weights)
    return model
