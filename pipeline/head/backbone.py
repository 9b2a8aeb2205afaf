"""The network without its classifier, as a head file is put on it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.explain.description import describe
from pipeline.explain.head import Head, backbone_hash
from pipeline.explain.head_place import find_place, mlp_activation, own_readout
from pipeline.explain.load import describe_loaded, load_weights
from pipeline.explain.preprocess import Normalize
from schemas.errors import UsageError
from schemas.head import HeadReadout, HeadRecord
from schemas.model import ModelRecord
from schemas.run import ModelSpec


@dataclass(frozen=True)
class Backbone:
    """A network that returns the features which a head of its read-out reads.

    Attributes:
        model: images [B, 3, H, W] → features [B, in], in evaluation mode.
        normalize: of pixels.
        record: of the network.
        head: metadata of a head for it, of two classes without names.
    """

    model: nn.Module
    normalize: Normalize
    record: ModelRecord
    head: HeadRecord

    def features(self, pixels: Any) -> Tensor:
        """Compute features float32 [B, in] of pixels uint8 [B, 3, H, W], on the device of the network."""
        with torch.inference_mode():
            values: Tensor = self.model(self.normalize(pixels))
        return values


def load_backbone(spec: ModelSpec, read_out: HeadReadout | None = None, device: str = "auto") -> Backbone:
    """Load a network for a read-out.

    Args:
        spec: the network and its weights; it may have any classifier, or none.
        read_out: features to return; None is what the network reads out itself.
        device: ``cpu``, ``cuda``, or ``auto``, which is a GPU if there is one.

    Raises:
        UsageError: no such network or weights, no such read-out of it, test-time registers, or no GPU.
        UnsupportedModel: see ``describe``.
    """
    if spec.registers:
        raise UsageError(
            f"{spec.registers}: a head is learned from a network without test-time registers; leave them out"
        )
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise UsageError("there is no GPU here that torch can use; use --device cpu, or fix its driver")
    torch.set_num_threads(1)  # the same bytes on any number of cores; see Worker

    def check(skeleton: nn.Module) -> None:
        describe(_two_classes(skeleton, read_out, spec.name).attach(skeleton))

    model, options, conversion = load_weights(spec, read_out is not None, check)
    head = _two_classes(model, read_out, spec.name)
    record = describe_loaded(spec.name, head.attach(model), options, conversion).record
    parts: Any = model
    find_place(parts).put(parts, nn.Identity())
    parts.to("cuda" if has_gpu and device != "cpu" else "cpu")
    metadata = head.record.model_copy(update={"backbone_sha256": backbone_hash(parts)})
    return Backbone(parts, Normalize(record.mean, record.std, next(parts.parameters())), record, metadata)


def with_any_head(model: nn.Module, name: str) -> nn.Module:
    """Put a head of zeros on a network, so that it can be described; one with two classifiers keeps its own.

    Args:
        model: the network, which is changed, and returned.
        name: of the network, for error messages.

    Raises:
        UsageError: its read-out has to be chosen.
        UnsupportedModel: see ``find_place``.
    """
    return model if hasattr(model, "head_dist") else _two_classes(model, None, name).attach(model)


def _two_classes(model: Any, read_out: HeadReadout | None, name: str) -> Head:
    """Return a head of zeros for a network; what cannot have it can have no other.

    Raises:
        UsageError: its read-out has to be chosen.
        UnsupportedModel: see ``find_place``.
    """
    place = find_place(model)
    read_out = read_out or own_readout(model)
    if read_out is None:
        raise UsageError(f"{name}: reads out {model.global_pool or 'all tokens'}; choose by --read-out")
    config = model.pretrained_cfg or {}
    record = HeadRecord(
        kind="linear",
        classes=("0", "1"),
        read_out=read_out,
        input_width=place.width,
        mean=config.get("mean"),
        std=config.get("std"),
        activation_function=mlp_activation(model),
    )
    return Head(record, {"weight": torch.zeros(2, record.feature_width)}, f"--read-out {read_out}")


@lru_cache(1)
def cached_backbone(spec: ModelSpec, read_out: HeadReadout, device: str) -> Backbone:
    """Return a backbone that this process keeps for further shards; see ``load_backbone``."""
    return load_backbone(spec, read_out, device)
