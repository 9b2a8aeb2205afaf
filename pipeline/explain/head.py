"""Heads apart from the backbone: a classifier in a file of its own, put on a network that has none for its classes."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import timm
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.explain.head_modules import LinearHead, ZeroShotHead, attached_module
from pipeline.explain.head_place import classifier_path, find_place, mlp_activation, set_readout
from pipeline.explain.module_classes import NETWORKS, base_class
from pipeline.explain.weights_hash import hash_tensors
from pipeline.utils.atomic_write import write_atomically
from pipeline.utils.tensor_file import to_safetensors
from schemas.base import sha256
from schemas.errors import UnsupportedModel, UsageError
from schemas.head import Activation, AttachedHead, HeadRecord

_UNIT_TOLERANCE = 1e-3
_LEAST_SCALE: dict[Activation, float] = {"softmax": 10.0, "sigmoid": 6.0}
"""Least scale of cosines. Trained towers have 14 to 100 (CLIP) and 10 to 120 (SigLIP); their files store the logarithm,
2.6 to 4.6 and 2.3 to 4.8."""

_SHAPES: dict[str, dict[str, int]] = {
    "linear": {"weight": 2, "bias": 1},
    "zero_shot": {
        "text": 2,
        "logit_scale": 0,
        "logit_bias": -1,
        "projection": 2,
        "projection_bias": 1,
        "empty": 2,
        "background": 2,
    },
}
"""Number of dimensions of each tensor of a kind; −1 is a scalar or one number for each class."""


@dataclass(frozen=True)
class Head:
    """A head file: metadata and tensors.

    ``linear``: ``weight`` [C, in], optional ``bias`` [C]; the input is D wide, 2D for ``token+mean``. ``zero_shot``:
    ``text`` [C, E] of unit rows; optional ``logit_scale`` (the factor itself, not its logarithm), ``logit_bias`` ([] or
    [C]), ``projection`` [E, in] with ``projection_bias`` [E], and ``empty`` [k, E], embeddings of prompts that name
    nothing.

    Attributes:
        record: metadata.
        tensors: by name.
        source: name of the file, for error messages.
    """

    record: HeadRecord
    tensors: dict[str, Tensor]
    source: str = "head"

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each logit."""
        return self.record.classes

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides the logits and their names: tensors in float32, and metadata."""
        parts = [self.record.model_copy(update={"provenance": ""}).to_bytes()]
        for name, tensor in sorted(self.tensors.items()):
            parts += [f"{name}{list(tensor.shape)}".encode(), tensor.float().contiguous().numpy().tobytes()]
        return sha256(b"\0".join(parts))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a head file.

        Args:
            path: a safetensors file with the metadata of ``HeadRecord``.

        Raises:
            UsageError: it cannot be read, or its content does not fit together; the message names the tensor or field.
        """
        source = str(path)
        try:
            with safe_open(source, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 – no mapping
        except FileNotFoundError:
            raise UsageError(f"{source}: no such file; check the path") from None
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{source}: cannot be read as safetensors ({error})") from None
        head = cls(HeadRecord.from_metadata(metadata, source), tensors, source)
        if fault := head._fault():
            raise UsageError(f"{source}: {fault}")
        return head

    def save(self, path: str | Path) -> None:
        """Write the head file atomically.

        Raises:
            UsageError: its content does not fit together, when the message names the tensor or field; or the file
                exists and is no head file, such as the checkpoint that the head was taken from.
        """
        if fault := self._fault():
            raise UsageError(f"{path}: {fault}")
        if os.path.exists(path) and not _is_head_file(path):
            raise UsageError(f"{path}: exists and is no head file; write to another file, or remove it")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        write_atomically(str(path), to_safetensors(tensors, self.record.to_metadata()))

    def _fault(self) -> str | None:
        """Return what is wrong with the content, or None."""
        shapes, record, tensors = _SHAPES[self.record.kind], self.record, self.tensors
        if unknown := sorted(tensors.keys() - shapes.keys()):
            return f"has unknown tensors {', '.join(unknown)}; a {record.kind} head has {', '.join(shapes)}"
        main = "weight" if record.kind == "linear" else "text"
        if main not in tensors:
            return f"has no tensor {main}, the classes of a {record.kind} head"
        count = len(record.classes)
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                return f"{name} is {tensor.dtype}; it must be a floating-point tensor"
            if not tensor.isfinite().all():
                return f"{name} has values that are not finite; make the head again"
            if tensor.ndim != shapes[name] and (shapes[name] >= 0 or tensor.ndim > 1):
                return f"{name} has shape {list(tensor.shape)}; it must have {max(shapes[name], 0)} dimensions"
        if len(tensors[main]) != count:
            return f"{main} has {len(tensors[main])} rows for {count} class names; both must be equal"
        width = record.feature_width
        return self._linear_fault(width) if record.kind == "linear" else self._zero_shot_fault(width)

    def _linear_fault(self, width: int) -> str | None:
        weight, bias = self.tensors["weight"], self.tensors.get("bias")
        if weight.shape[1] != width:
            return (
                f"weight has {weight.shape[1]} columns; read_out {self.record.read_out} of tokens of width "
                f"{self.record.input_width} gives {width} features: correct read_out or input_width"
            )
        if bias is not None and len(bias) != len(weight):
            return f"bias has {len(bias)} values for {len(weight)} classes"
        return None

    def _zero_shot_fault(self, width: int) -> str | None:
        record, tensors = self.record, self.tensors
        text, scale, bias = tensors["text"], tensors.get("logit_scale"), tensors.get("logit_bias")
        embedding = text.shape[1]
        projection, projection_bias = tensors.get("projection"), tensors.get("projection_bias")
        if (record.projection == "tensor") != (projection is not None):
            return f"projection is {record.projection!r} in the metadata; its tensor projection says otherwise"
        if projection is not None and tuple(projection.shape) != (embedding, width):
            return f"projection has shape {list(projection.shape)}; text and read-out need [{embedding}, {width}]"
        if projection_bias is not None and (projection is None or len(projection_bias) != embedding):
            return f"projection_bias does not belong to a projection of {embedding} rows"
        if record.projection == "none" and embedding != width:
            return f"text has {embedding} columns, the read-out {width} features; without a projection both are equal"
        for name in ("text", "empty", "background"):
            if name in tensors and tensors[name].shape[1] != embedding:
                return f"{name} has {tensors[name].shape[1]} columns, text {embedding}"
            if name in tensors and ((tensors[name].norm(dim=1) - 1).abs() > _UNIT_TOLERANCE).any():
                return f"{name} has rows whose norm is not 1; divide each row by its norm"
        if scale is not None and scale <= 0:
            return f"logit_scale is {float(scale):.4g}; it must be above 0"
        if scale is not None and scale < _LEAST_SCALE[record.activation]:
            return (
                f"logit_scale is {float(scale):.4g}, which looks like the logarithm of the factor; "
                f"write the factor itself, {float(scale.double().exp()):.4g}"
            )
        if bias is not None and bias.ndim and len(bias) != len(text):
            return f"logit_bias has {len(bias)} values for {len(text)} classes"
        return None

    def for_any_backbone(self) -> "Head":
        """Return the head without the hash of its backbone, for networks of random weights or none."""
        return replace(self, record=self.record.model_copy(update={"backbone_sha256": ""}))

    def attach(self, model: nn.Module) -> nn.Module:
        """Put the head on a network, in place of its own classifier. The network is changed, and returned.

        Args:
            model: a timm vision transformer, or a network whose classifier reads the mean of its last feature grid,
                in its final dtype and on its final device.

        Raises:
            UnsupportedModel: the head was made for another width, read-out, projection, preprocessing or backbone, or
                for a network that can have no head file.
        """
        parts: Any = model
        record, family = self.record, type(model).__name__

        def refuse(reason: str) -> UnsupportedModel:
            return UnsupportedModel(f"{self.source}: does not fit {family}: {reason}")

        place = find_place(parts)
        if place.width != record.input_width:
            kind = "tokens" if base_class(parts) in NETWORKS else "features"
            raise refuse(f"its {kind} are {place.width} wide; the head was made for {record.input_width}")
        if reason := self._preprocessing_fault(parts):
            raise refuse(reason)
        weights = next(model.parameters())
        tensors = {name: tensor.to(weights.device, weights.dtype) for name, tensor in self.tensors.items()}
        if record.kind == "linear":
            head: nn.Module = LinearHead(tensors["weight"], tensors.get("bias"), record, self.digest)
        else:
            head = ZeroShotHead(self._projection(parts, place.path, tensors, refuse), tensors, record, self.digest)
        set_readout(parts, record.read_out, refuse)
        place.put(parts, head.train(model.training))
        parts.num_classes = len(self.classes)
        return model

    def _projection(self, parts: Any, path: str, tensors: dict[str, Tensor], refuse: Any) -> nn.Module:
        """Return P: the classifier of the backbone, the tensor of the file, or the identity."""
        if self.record.projection == "none":
            return nn.Identity()
        embedding = tensors["text"].shape[1]
        if self.record.projection == "tensor":
            projection = nn.Linear(tensors["projection"].shape[1], embedding, "projection_bias" in tensors)
            projection.weight = nn.Parameter(tensors["projection"])
            if "projection_bias" in tensors:
                projection.bias = nn.Parameter(tensors["projection_bias"])
            return projection
        attached = attached_module(parts)
        own = attached.projection if isinstance(attached, ZeroShotHead) else parts.get_submodule(path)
        if not isinstance(own, nn.Linear) or isinstance(own, LinearHead):
            raise refuse("the head projects by the backbone's own head.weight, and it has none")
        if own.out_features != embedding:
            raise refuse(f"its projection has {own.out_features} outputs, the texts {embedding}")
        return own

    def _preprocessing_fault(self, parts: Any) -> str | None:
        """Return a difference between the backbone and the one that the head was made for, or None."""
        record, config = self.record, getattr(parts, "pretrained_cfg", None) or {}
        for name in ("mean", "std"):
            asked, own = getattr(record, name), config.get(name)
            if asked and own and any(abs(a - b) > 1e-6 for a, b in zip(asked, own, strict=True)):
                return f"the head was made for images of {name} {asked}, the network takes {tuple(own)}"
        activation = mlp_activation(parts)
        if record.activation_function and record.activation_function != activation:
            own_activation = activation or "no MLP of a vision transformer"
            return f"the head was made for a backbone with {record.activation_function}, this one has {own_activation}"
        twin = f"{config.get('architecture')}.{config.get('tag')}".replace("_clip_", "_clip_quickgelu_")
        if (
            record.kind == "zero_shot"
            and activation not in ("", "QuickGELU")
            and twin in timm.list_pretrained("*_quickgelu_*")
        ):
            return f"its weights were trained with QuickGELU and this network has {activation}; name {twin}"
        if record.backbone_sha256 and record.backbone_sha256 != (own_hash := backbone_hash(parts)):
            return f"the head was made for the backbone {record.backbone_sha256[:19]}…, this one is {own_hash[:19]}…"
        return None


def _is_head_file(path: str | Path) -> bool:
    try:
        with safe_open(str(path), "pt") as file:
            return "kind" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def attached_head(model: nn.Module) -> AttachedHead | None:
    """Return the record of the head file of a network; None where it has its own classifier."""
    head = attached_module(model)
    if head is None:
        return None
    return AttachedHead(
        kind=head.kind,
        activation=head.activation,
        hash=head.digest,
        backbone=backbone_hash(model),
        classes=head.classes,
    )


def backbone_hash(model: nn.Module) -> str:
    """Compute the hash of a network without its classifier; see ``weights_hash``."""
    classifier = f"{classifier_path(model)}."
    tensors = model.state_dict()
    return hash_tensors({name: tensor for name, tensor in tensors.items() if not name.startswith(classifier)})
