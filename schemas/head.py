"""A head file: the classifier of a network, apart from its backbone."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.errors import UsageError

HeadKind = Literal["linear", "zero_shot"]
HeadReadout = Literal["token", "mean", "pool", "token+mean"]
CheckpointReadout = Literal["token", "mean", "pool", "token+mean", "interleaved"]
"""What the columns of a classifier in a checkpoint stand for: the read-outs of a head file, and ``interleaved``, in
which column 2d is feature d of the class token and column 2d + 1 that of the mean of the patches (DINO's evaluation of
ViT-B, eval_linear.py)."""
Activation = Literal["softmax", "sigmoid"]

_FORMAT = "head/1"
_JSON_FIELDS = ("classes", "prompts", "templates", "parts", "mean", "std")
_PARTS = ["cls", "mean_patches"]
_NAMED = 5
"""Classes that a line of text names."""


class AttachedHead(Record):
    """The head file of a network, as a run records it. What it reads is ``readout`` of the network.

    Attributes:
        kind: as in ``HeadRecord``.
        activation: as in ``HeadRecord``.
        hash: SHA-256 of its tensors and of the metadata that decide logits and names.
        backbone: SHA-256 of the tensors of the network without its head.
        classes: name of each logit, in order.
    """

    kind: HeadKind
    activation: Activation
    hash: str
    backbone: str
    classes: Annotated[tuple[str, ...], Field(min_length=1)]

    def __str__(self) -> str:
        names = ", ".join(self.classes[:_NAMED])
        more = ", …" if len(self.classes) > _NAMED else ""
        count = "1 class" if len(self.classes) == 1 else f"{len(self.classes):,} classes"
        return f"{self.kind}, {self.activation} of {count}: {names}{more}"


class HeadRecord(Record):
    """Metadata of a head file: safetensors metadata, each value a string; lists are JSON.

    Attributes:
        format: version of the file, ``head/1``.
        kind: ``linear`` has ``weight`` and ``bias``; ``zero_shot`` has ``text``: unit embeddings of the classes.
        classes: name of each logit, in order. Names may repeat: ImageNet has two classes "missile".
        read_out: features that the head reads, behind the final norm: class token, mean of the patch tokens, output
            of the attention pooler, or class token and mean of the patch tokens concatenated in this order. In a
            network that is no plain vision transformer ``mean`` is what its own classifier reads, a function of the
            mean of the last feature grid.
        input_width: D, width of the backbone's tokens, or of what the classifier of another network reads.
        activation: turns logits into probabilities.
        projection: what maps features to the space of ``text``: the backbone's own classifier, the file's tensor
            ``projection``, or nothing.
        normalise: ``l2`` divides the projected features by their norm.
        prompts: texts that were embedded, for each class.
        templates: templates of the prompts.
        templates_sha256: SHA-256 of the templates.
        text_model: name of the text tower.
        text_model_sha256: SHA-256 of its weights.
        backbone_sha256: hash of the backbone without its head; empty fits any backbone.
        mean: mean of each channel for which the backbone was trained.
        std: standard deviation of each channel for which the backbone was trained.
        activation_function: of the backbone's MLPs, a class name of timm such as ``QuickGELU``.
        parts: features that ``token+mean`` concatenates; always class token, then mean of the patch tokens.
        provenance: how the head was made; changes nothing.
    """

    format: str = _FORMAT
    kind: HeadKind
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    read_out: HeadReadout
    input_width: Annotated[int, Field(ge=1)]
    activation: Activation = "softmax"
    projection: Literal["backbone head.weight", "tensor", "none"] = "none"
    normalise: Literal["l2", "none"] = "none"
    prompts: tuple[tuple[str, ...], ...] = ()
    templates: tuple[str, ...] = ()
    templates_sha256: str = ""
    text_model: str = ""
    text_model_sha256: str = ""
    backbone_sha256: str = ""
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    activation_function: str = ""
    parts: tuple[str, ...] = ()
    provenance: str = ""

    @model_validator(mode="after")
    def _check(self) -> "HeadRecord":
        if self.format.partition(" ")[0] != _FORMAT:
            raise ValueError(f"format is {self.format!r}; this version reads {_FORMAT}")
        for index, name in enumerate(self.classes):
            if not name.strip() or not name.isprintable():
                raise ValueError(f"class {index} is named {name[:80]!r}; give it a name in one line")
        if self.kind == "zero_shot" and self.normalise != "l2":
            raise ValueError("a zero_shot head compares directions, so normalise must be l2")
        if self.kind == "linear" and (self.projection, self.normalise) != ("none", "none"):
            raise ValueError("a linear head has neither projection nor normalise; its kind is zero_shot")
        if self.prompts and len(self.prompts) != len(self.classes):
            raise ValueError(f"there are prompts for {len(self.prompts)} classes, not for {len(self.classes)}")
        if self.parts and (self.read_out != "token+mean" or list(self.parts) != _PARTS):
            raise ValueError(f"parts is {list(self.parts)}; only {_PARTS} with read_out token+mean is supported")
        return self

    @property
    def feature_width(self) -> int:
        """Number of features that the head reads."""
        return self.input_width * (2 if self.read_out == "token+mean" else 1)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> "HeadRecord":
        """Parse the metadata of a safetensors file.

        Args:
            metadata: strings by field. Fields of other programs are left out.
            source: name of the file, for error messages.

        Raises:
            UsageError: a required field is missing, or a value does not fit.
        """
        values: dict[str, Any] = {name: text for name, text in metadata.items() if name in cls.model_fields}
        if "kind" not in values:
            raise UsageError(f"{source}: is not a head file: its metadata have no kind; make one with vitatlas head")
        for name in _JSON_FIELDS:
            if name in values:
                try:
                    values[name] = json.loads(values[name])
                except (ValueError, RecursionError):
                    raise UsageError(f"{source}: {name}: is not JSON; write the head file again") from None
        return cls.read(values, source)

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata of a safetensors file; fields at their default are left out."""
        values = {"format": self.format} | self.model_dump(mode="json", exclude_defaults=True)
        return {name: json.dumps(value) if name in _JSON_FIELDS else str(value) for name, value in values.items()}
