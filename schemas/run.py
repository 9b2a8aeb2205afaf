"""What a user asks of a run: ``RunSpec``, with the network and the rules by which shards are read."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from schemas.base import GrowingRecord, Record
from schemas.model import Size
from schemas.targets import TargetKind, is_text, target_names
from schemas.text import normalize_name
from schemas.text_tower import TextTowerSpec

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]
"""Name that is safe as a part of a path."""
Extension = Annotated[str, Field(pattern=r"^[^./A-Z][^/A-Z]*$")]
"""Extension of a member, in lower case and without the dot in front."""
Geometry = Literal["squash", "crop"]
GlobalPool = Literal["token", "avg", "map"]
"""What a classifier reads, in timm's terms: the class token, the mean of the patch tokens, an attention pooler."""
TruthOrientation = Literal["stored", "upright"]
"""Images that the coordinates of a truth are of: as stored in their files, or turned upright by EXIF."""
MaskValues = Literal["indexed", "gray"]
"""Values of a PNG mask: ``indexed`` are numbers of objects, 255 is ignored; ``gray`` is a white object."""
Precision = Literal["full", "bfloat16", "float16"]
Decode = Literal["processes", "gpu"]
PartialShards = Literal["refuse", "keep"]
KeySeparator = Literal["first-dot", "last-dot"]
Exif = Literal["apply", "ignore"]
LabelForm = Literal["ids", "names", "one-hot"]
"""How labels are written: class ids, class names, or a 0 or 1 for each class."""


@dataclass(frozen=True)
class Grouping:
    """Rule by which the members of a shard become samples.

    Attributes:
        key_separator: dot of a file name that ends the key of its sample.
        image_key: extensions of the image in a sample, by priority; empty is the only image that the sample has.
    """

    key_separator: KeySeparator = "first-dot"
    image_key: tuple[str, ...] = ()


class ModelSpec(GrowingRecord):
    """A network, and the source of its weights.

    Attributes:
        name: a timm model name; ``local-dir:FOLDER`` with weights and the ``config.json`` of timm or of transformers in
            it; or ``hf-hub:ORG/NAME`` for such a folder on the Hugging Face hub.
        pretrained: use timm's weights for this name.
        checkpoint: path of a weights file: ``.safetensors``, or one of ``torch.save`` that holds tensors only.
            Exactly one of ``pretrained`` and ``checkpoint`` is required: an atlas of random weights is never intended.
        checkpoint_key: which state dict of a checkpoint that has several, such as ``teacher``.
        global_pool: what the classifier reads, in timm's terms, where the weights fit several read-outs and no
            ``config.json`` beside them tells.
        head: path of a head file, whose classifier replaces the network's own.
        registers: path of a file of test-time registers, which make another network of it.
        image_size: height and width in pixels, where they are not the architecture's; positions are resampled.
    """

    later_fields = frozenset({"registers"})
    name: str
    pretrained: bool = False
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    global_pool: GlobalPool | None = None
    head: str | None = None
    registers: str | None = None
    image_size: Size | None = None

    @model_validator(mode="after")
    def _check_source(self) -> "ModelSpec":
        if self.pretrained == (self.checkpoint is not None):
            raise ValueError(
                "give the weights by exactly one of pretrained and checkpoint (--pretrained, or --checkpoint FILE)"
            )
        if self.checkpoint_key is not None and self.checkpoint is None:
            raise ValueError("checkpoint_key is of a checkpoint; give one")
        return self


class RunSpec(Record):
    """The spec of a run: the content of a spec file, or of the flags of ``vitatlas plan``.

    Attributes:
        shards: paths, fsspec URLs or brace patterns of shards, in the order of the rows.
        root: folder or URL of relative shards; empty is the working directory.
        model: the network to explain.
        methods: names, with options as in ``reciprocam:kernel=box``; empty is all cheap methods.
        artifacts: files of ``vitatlas train``; each adds the learned method that it is for.
        targets: target kinds, in the order of the ``target`` dimension: ``label``; ``label:M``, up to M labels of each
            image; ``predicted``; ``top:K``, the K most probable classes; ``class:A,B``, fixed classes by name or id;
            ``text``, the caption in the ``txt`` member of each sample; ``text:FIELD``, in that field of its ``json``.
            Where none are named and no sample has a label, ``predicted`` alone.
        text_tower: embeds the captions of ``text``; by flags ``--open-clip`` and ``--weights``, or ``--hugging-face``.
        geometry: ``squash`` resizes the whole image, ``crop`` is the network's own evaluation transform.
        batch_size: images per forward. Part of the spec, because the last bit of a map may depend on it.
        seed: random seed of the methods that sample.
        precision: ``full`` is float32; ``bfloat16`` and ``float16`` run the network under autocast, and each commit
            records the error of the maps.
        decode: ``processes`` decode on the CPU; ``gpu`` decodes baseline JPEGs on the GPU, and the others in processes.
            Part of the spec, because the pixels of the two differ slightly.
        label_key: field of ``json`` that has the labels, or its path, as in ``object.class``; None is the ``cls`` one.
        label_form: ``ids``, ``names``, or ``one-hot``, 0 or 1 for each class; None refuses a label that can be several.
        classes: names of all classes by class id, if labels are names; by flags a file, one a line.
        key_separator: dot of a file name that ends the key of its sample: ``first-dot``, as in WebDataset, or
            ``last-dot``.
        image_key: extensions of the image in a sample that has several, by priority, such as ``webp`` or ``input.jpg``.
        exif: ``apply`` turns images upright by their EXIF orientation, ``ignore`` takes them as they are stored.
        partial_shards: ``keep`` uses the samples before the place where a shard is truncated or broken;
            ``refuse`` quarantines such a shard.
        allow_pipe: accept ``pipe:`` shards, which run a shell command.
    """

    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    root: str = ""
    model: ModelSpec
    methods: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    targets: Annotated[tuple[TargetKind, ...], Field(min_length=1)] = ("label", "predicted")
    text_tower: TextTowerSpec | None = None
    geometry: Geometry = "squash"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    seed: int = 0
    precision: Precision = "full"
    decode: Decode = "processes"
    label_key: Annotated[str, Field(min_length=1)] | None = None
    label_form: LabelForm | None = None
    classes: tuple[str, ...] = ()
    key_separator: KeySeparator = "first-dot"
    image_key: tuple[Extension, ...] = ()
    exif: Exif = "apply"
    partial_shards: PartialShards = "refuse"
    allow_pipe: bool = False

    @model_validator(mode="after")
    def _check_targets(self) -> "RunSpec":
        if len(set(self.target_names)) < len(self.target_names):
            raise ValueError(f"a target is named twice: {', '.join(self.targets)}")
        labels = [kind for kind in self.targets if kind.partition(":")[0] == "label"]
        if len(labels) > 1:
            raise ValueError(f"{' and '.join(labels)} read the same labels; name one of them")
        if bool(self.text_targets) != (self.text_tower is not None):
            if self.text_tower is not None:
                raise ValueError("a text tower is only for the target text; leave it out, or add text to the targets")
            raise ValueError(
                "the target text needs a text tower: --open-clip NAME --weights FILE or --hugging-face DIR"
            )
        return self

    @model_validator(mode="after")
    def _check_classes(self) -> "RunSpec":
        first: dict[str, int] = {}
        for class_id, name in enumerate(self.classes):
            if not name.strip() or not name.isprintable():
                raise ValueError(f"classes.{class_id}: {name!r} is not a class name; write the name of one class")
            if (other := first.setdefault(normalize_name(name), class_id)) != class_id:
                fix = "give each class a name of its own, such as its WordNet id"
                raise ValueError(f"classes.{class_id}: {name} is the name of class {other}, too; {fix}")
        if self.label_form == "names" and not self.classes:
            raise ValueError("labels that are names need the names of all classes: add --classes FILE")
        return self

    @property
    def has_default_targets(self) -> bool:
        """Neither targets are named, nor a field that has labels."""
        return "targets" not in self.model_fields_set and not self.label_key

    @property
    def text_targets(self) -> tuple[str, ...]:
        """Targets that are texts of each sample."""
        return tuple(filter(is_text, self.target_names))

    @property
    def target_names(self) -> tuple[str, ...]:
        """Targets: the coordinates of the ``target`` dimension."""
        return target_names(self.targets)

    @property
    def grouping(self) -> Grouping:
        """Rule by which the members of a shard become samples."""
        return Grouping(self.key_separator, self.image_key)
