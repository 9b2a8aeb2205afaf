"""A run: what a user asks for (``RunSpec``) and what is frozen from it (``RunRecord``)."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from schemas.base import Record
from schemas.layout import FORMAT

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]
"""What becomes part of a path: it cannot lead anywhere."""
TargetKind = Literal["label", "predicted"]
Geometry = Literal["squash", "crop"]
Precision = Literal["full", "bfloat16", "float16"]
Decode = Literal["processes", "gpu"]
PartialShards = Literal["refuse", "keep"]


class ModelSpec(Record):
    """Which network, and where its weights come from.

    Attributes:
        name: a timm model name, or ``local-dir:FOLDER`` with timm's ``config.json`` and weights in it.
        pretrained: take the weights that timm knows for this name.
        checkpoint: a ``.safetensors`` file of a timm state dict. Without either, the weights are random,
            which is refused: an atlas of a random network is never what was meant.
    """

    name: str
    pretrained: bool = False
    checkpoint: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSpec":
        if self.pretrained == (self.checkpoint is not None):
            raise ValueError("give the weights by exactly one of pretrained and checkpoint")
        return self


class RunSpec(Record):
    """What a user asks for: the content of a spec file, or of the flags of ``vitatlas plan``.

    Attributes:
        shards: paths, fsspec URLs or brace patterns of shards, in the order of the rows.
        root: folder or URL that relative shards stand in; empty is the working directory.
        model: the network to explain.
        methods: names, with options as in ``reciprocam:kernel=box``; empty is every method that is cheap.
        artifacts: files of ``vitatlas train``; each joins the method that its card names.
        targets: the classes to explain, in the order of the ``target`` dimension.
        geometry: ``squash`` resizes the whole image, ``crop`` is the network's own evaluation transform.
        batch_size: images a forward. Part of the spec, because a float may depend on it in its last bit.
        seed: of the methods that draw at random.
        precision: ``full`` is float32; the half ones run the network under autocast, and each shard's record
            says how far that moves its maps.
        decode: ``processes`` beside the network; ``gpu`` decodes plain JPEGs on it, and the others in processes. Part
            of the spec, because pixels of the two differ by small amounts.
        partial_shards: ``keep`` takes the samples in front of the place where a shard is truncated or broken;
            ``refuse`` quarantines such a shard.
        allow_pipe: accept ``pipe:`` shards, which run a shell command.
    """

    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    root: str = ""
    model: ModelSpec
    methods: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    targets: Annotated[tuple[TargetKind, ...], Field(min_length=1)] = ("label", "predicted")
    geometry: Geometry = "squash"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    seed: int = 0
    precision: Precision = "full"
    decode: Decode = "processes"
    partial_shards: PartialShards = "refuse"
    allow_pipe: bool = False

    @model_validator(mode="after")
    def _no_target_twice(self) -> "RunSpec":
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"a target is named twice: {', '.join(self.targets)}")
        return self


class ModelRecord(Record):
    """The network as it was when the run was planned.

    Attributes:
        name: as timm has it.
        parameters, classes: how many.
        prefix_tokens: in front of the patches, such as the class token and registers.
        readout: what the classifier sees: ``token``, ``mean`` or ``pool``, an attention pooler.
        weights: SHA-256 over names, shapes, dtypes and bytes of all tensors, so that it is the same for
            every file format.
        input_size: height and width in pixels.
        grid: rows and columns of the patch grid.
        mean, std: of each channel, for pixels in [0, 1].
        interpolation: of the resize, as timm names it.
        crop_pct, crop_mode: of the network's own evaluation transform.
    """

    name: str
    weights: str
    parameters: int
    classes: int
    input_size: tuple[int, int]
    grid: tuple[int, int]
    prefix_tokens: int
    readout: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float
    crop_mode: str


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class ShardRecord:
    """One shard, the unit of work and of commit. There may be very many, so it takes half the memory of a ``Record``.

    Attributes:
        name: its short name, unique in the run and safe as a file name.
        url: where it is read from.
        samples: how many samples it holds, so many rows it owns.
        size: bytes, or −1 where the store does not say.
        fault: error that the scan found, or None; such a shard is quarantined, and the run fails at its end.
        partial: use the ``samples`` samples before the fault instead.
    """

    name: Name
    url: str
    samples: int
    size: int
    fault: str | None = None
    partial: bool = False


class RunRecord(Record):
    """``run.json``: everything that decides what the maps are. Written once, last of the plan.

    Attributes:
        format: version of the layout.
        spec, spec_hash: what was asked for, and its hash.
        model: the network as it was.
        shards: shards, in the order of the rows.
        slot: rows that each shard owns: the largest count, rounded up to the chunk.
        chunk: rows of one Zarr chunk.
        methods: array name of each method, with all its options.
        extra_outputs: names of the numbers that a method reports beside each map, by method.
        artifacts: SHA-256 of the file of each method that has weights of its own.
        provenance: name of the design that a method follows, where its paper leaves one open.
        versions: of the packages that compute.
    """

    format: int = FORMAT
    spec: RunSpec
    spec_hash: str
    model: ModelRecord
    methods: dict[Name, dict[str, str | int | float | bool]]
    extra_outputs: dict[Name, tuple[Name, ...]]
    artifacts: dict[str, str] = Field(default_factory=dict)
    provenance: dict[str, str] = Field(default_factory=dict)
    slot: int
    chunk: int
    shards: tuple[ShardRecord, ...]
    versions: dict[str, str]

    @property
    def samples(self) -> int:
        """Images in all shards together."""
        return sum(shard.samples for shard in self.shards)

    @property
    def rows(self) -> int:
        """Length of the ``row`` dimension: slots, filled or not."""
        return self.slot * len(self.shards)
