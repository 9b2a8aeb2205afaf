"""Loading of timm models, with pretrained weights or a checkpoint."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
from safetensors import SafetensorError
from timm.data.config import resolve_model_data_config
from torch import nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.checkpoint import (
    MERGE_ADAPTERS,
    ImageConfig,
    ModelConfig,
    create_for_size,
    derive_transformers,
    find_weights,
    images_beside,
    is_of_transformers,
    load_checkpoint,
    require_whole_patches,
    resampled_by_timm,
)
from pipeline.explain.description import describe
from pipeline.explain.head import Head, attached_head
from pipeline.explain.hub import HUB, download, plain_name
from pipeline.explain.network import Network, Requirement
from pipeline.explain.registers import Registers, attached_registers
from pipeline.explain.weights_hash import weights_hash
from schemas.errors import UnsupportedModel, UsageError
from schemas.model import ConversionRecord, ModelRecord
from schemas.run import ModelSpec
from schemas.text import suggest

LOCAL = "local-dir:"


@dataclass(frozen=True)
class LoadedModel:
    """A model with its description. ``load_model`` returns it in evaluation mode, on the CPU, in float32."""

    model: nn.Module
    anatomy: Network
    record: ModelRecord

    @property
    def transformer(self) -> Anatomy:
        """Its description, for what only plain vision transformers have.

        Raises:
            UnsupportedModel: it is none; the message gives the reason.
        """
        if isinstance(self.anatomy, Anatomy):
            return self.anatomy
        reason = self.anatomy.missing[Requirement.ATTENTION]
        raise UnsupportedModel(f"{self.record.name}: is no plain vision transformer: {reason}")


def load_model(spec: ModelSpec) -> LoadedModel:
    """Build a model, load its weights, and put its head file and its test-time registers on it.

    Raises:
        UsageError: no such model, no such weights, weights of another architecture, or of several read-outs, or no
            such file.
        UnsupportedModel: see ``describe``, ``Head.attach`` and ``Registers.attach``.
    """
    head = Head.load(spec.head) if spec.head else None
    registers = Registers.load(spec.registers) if spec.registers else None

    def check(skeleton: nn.Module) -> None:
        model = head.for_any_backbone().attach(skeleton) if head else skeleton
        describe(registers.for_any_backbone().attach(model) if registers else model)

    model, options, conversion = load_weights(spec, head is not None, check)
    model = head.attach(model) if head else model
    model = registers.attach(model) if registers else model
    return describe_loaded(spec.name, model, options, conversion)


def describe_loaded(
    name: str,
    model: nn.Module,
    options: dict[str, Any] | None = None,
    conversion: ConversionRecord | None = None,
) -> LoadedModel:
    """Describe a model for the records of a run.

    Args:
        name: timm name.
        model: the network.
        options: architecture and arguments of its constructor, where a ``config.json`` gives them.
        conversion: how the names in its file became timm's, if they were others.

    Raises:
        UsageError: it does not take RGB images.
        UnsupportedModel: see ``describe``.
    """
    anatomy = describe(model)
    config = resolve_model_data_config(model)
    for statistic in ("mean", "std"):
        channels = config[statistic]
        if isinstance(channels, tuple | list) and len(channels) != 3:
            raise UsageError(f"{name}: {statistic} is of {len(channels)} channels; only RGB is supported")
    content = {
        "name": name,
        "network": type(model).__name__,
        "options": options or {},
        "weights": weights_hash(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "classes": anatomy.classes,
        "input_size": anatomy.input_size,
        "grid": anatomy.grid,
        "prefix_tokens": anatomy.prefix_tokens,
        "readout": anatomy.readout,
        "mean": config["mean"],
        "std": config["std"],
        "interpolation": config["interpolation"],
        "crop_pct": config["crop_pct"],
        "crop_mode": config["crop_mode"],
        "head": attached_head(model),
        "conversion": conversion,
        "registers": attached_registers(model),
    }
    record = ModelRecord.read(content, name)  # mean, std and crop may be those of a folder's config.json
    return LoadedModel(model, anatomy, record)


def absolute_model_name(name: str) -> str:
    """Return the name of a model with an absolute path in place of a relative one."""
    return LOCAL + os.path.abspath(name.removeprefix(LOCAL)) if name.startswith(LOCAL) else name


def absolute_model_spec(spec: ModelSpec) -> ModelSpec:
    """Return the model spec with absolute paths, valid in every process and from every folder."""
    files = {field: getattr(spec, field) for field in ("checkpoint", "head", "registers")}
    paths = {field: os.path.abspath(path) for field, path in files.items() if path}
    return spec.model_copy(update={"name": absolute_model_name(spec.name)} | paths)


def create_untrained(name: str, head: str | None = None, classes: int | None = None) -> nn.Module:
    """Create a model with random weights, for what does not depend on them.

    A classifier that timm creates as zeros gets random weights too: nobody could tell what it reads.

    Args:
        name: as in ``create_model``.
        head: head file, whose classifier the model gets; it may have been made for any weights.
        classes: without a head file, the number of classes; None is the model's own.

    Raises:
        UsageError: there is no such model or head file, or both head and classes are given.
        UnsupportedModel: the head is for another network.
    """
    if head is not None and classes is not None:
        raise UsageError(f"{head}: has its own classes; leave out the number of classes, {classes}")
    model: Any = create_model(name, **({} if classes is None else {"num_classes": classes}))
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    for weight in classifier.parameters() if isinstance(classifier, nn.Module) else ():
        if weight.ndim > 1 and not weight.any():
            nn.init.trunc_normal_(weight, std=0.02)
    return model if head is None else Head.load(head).for_any_backbone().attach(model)


def create_model(name: str, **options: Any) -> nn.Module:
    """Create a timm model, by default with random weights.

    Args:
        name: timm name, ``local-dir:`` and a folder, or ``hf-hub:`` and a model on the hub.
        options: of ``timm.create_model``; for a folder, of the constructor of its architecture.

    Raises:
        UsageError: there is no such model, it cannot be built, or its weights cannot be loaded.
    """
    name = plain_name(name)
    if folder := _folder(name):
        return _config_of_folder(folder, None).build(**options)
    _check_name(name)
    if not options.pop("pretrained", False):
        return ModelConfig(architecture=name).build(**options)
    size = options.pop("img_size", None)
    try:
        return create_for_size(partial(timm.create_model, name, pretrained=True, **options), size)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:400]
        raise UsageError(
            f"{name}: its pretrained weights cannot be loaded ({type(error).__name__}: {reason}); "
            "give them with --checkpoint FILE"
        ) from error


def _check_name(name: str) -> None:
    if not timm.is_model(name.partition(".")[0]):
        hint = suggest(name, timm.list_models(), 0.6)
        raise UsageError(f"timm has no model {name!r}{hint or '; see timm.list_models()'}")


def load_weights(
    spec: ModelSpec, has_head: bool, check: Callable[[nn.Module], None]
) -> tuple[nn.Module, dict[str, Any], ConversionRecord | None]:
    """Build the network of a spec with its weights, but without its head file and its test-time registers.

    Args:
        spec: the network.
        has_head: a head file will set classifier and read-out.
        check: raises if the network, which it gets without weights before they are downloaded, cannot be used.

    Returns:
        The network in evaluation mode and in float32, what a ``config.json`` says on it, the conversion of its weights.

    Raises:
        UsageError: see ``load_model``.
    """
    model, options, conversion = _with_weights(spec, has_head, check)
    return model.float().eval(), options, conversion


def _with_weights(
    spec: ModelSpec, has_head: bool, check: Callable[[nn.Module], None]
) -> tuple[nn.Module, dict[str, Any], ConversionRecord | None]:
    name = plain_name(spec.name)
    if folder := _folder(name):
        config = _config_of_folder(folder, spec.checkpoint, spec.checkpoint_key)
        return _from_file(config, spec.checkpoint or find_weights(folder), spec, has_head)
    _check_name(name)
    if spec.checkpoint is not None:
        return _from_file(_config_of_checkpoint(spec.checkpoint, name), spec.checkpoint, spec, has_head)
    skeleton = ModelConfig(architecture=name).skeleton()
    check(skeleton)
    require_whole_patches(skeleton, spec.image_size)
    size = {} if spec.image_size is None else {"img_size": spec.image_size}
    model = create_model(name, pretrained=True, **size)
    pooling = getattr(model, "global_pool", None)
    if spec.global_pool not in (None, pooling):
        raise UsageError(f"{spec.name}: its read-out is {pooling}; leave out --global-pool {spec.global_pool}")
    return model, {}, resampled_by_timm(skeleton, model)


def _folder(name: str) -> str | None:
    """Return the folder of a model that is not one of timm's names."""
    if name.startswith(HUB):
        return download(name)
    return name.removeprefix(LOCAL) if name.startswith(LOCAL) else None


def _config_of_folder(folder: str, checkpoint: str | None, key: str | None = None) -> ModelConfig:
    """Describe the network of a folder, as timm or as transformers saves one."""
    if os.path.isfile(os.path.join(folder, "adapter_config.json")):
        raise UsageError(f"{folder}: {MERGE_ADAPTERS}")
    if is_of_transformers(folder):
        return derive_transformers(checkpoint or find_weights(folder), key)
    return ModelConfig.of_folder(folder)


def _config_of_checkpoint(path: str, name: str) -> ModelConfig:
    """Describe a network of timm whose weights are in a file; how images are prepared may stand beside it."""
    config, images = ModelConfig.of_checkpoint(path, name), images_beside(path)
    if config.images is not None or images is None:
        return config
    own = ImageConfig.of_model(name).model_copy(update=images.model_dump(exclude_none=True))
    return config.model_copy(update={"images": own})


def _from_file(
    config: ModelConfig, path: str, spec: ModelSpec, has_head: bool
) -> tuple[nn.Module, dict[str, Any], ConversionRecord | None]:
    read_out = spec.global_pool
    if read_out and config.read_out not in (None, read_out):
        raise UsageError(
            f"{path}: its config.json gives global_pool {config.read_out}, not {read_out}; "
            "correct it, or leave out --global-pool"
        )
    options = {"architecture": config.architecture} | config.arguments if config.images is not None else {}
    pool = read_out or config.read_out
    model, conversion = load_checkpoint(config, path, pool, spec.image_size, spec.checkpoint_key, has_head)
    return model, options, conversion
