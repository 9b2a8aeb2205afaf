"""Heads that are learned from labelled images: what the user asks for, and how a head was made."""

from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from schemas.arrow import CATEGORY, column, schema
from schemas.base import Count, Finite, Record
from schemas.head import HeadReadout
from schemas.run import Exif, Geometry, Grouping, KeySeparator, ModelSpec

Strength = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
LEFT_OUT = schema(
    column("shard", CATEGORY, "name of the shard"),
    column("ordinal", pa.int64(), "position in the shard"),
    column("key", pa.string(), "key of the sample"),
    column("status", CATEGORY, "kind of the fault, as in the sample table of an atlas"),
    column("error", pa.string(), "the fault in one sentence"),
)
"""Samples without features, ``<out>.left-out.parquet``."""

Command = Literal["head probe", "head prototypes"]


class LearnedHeadSpec(Record):
    """A head to learn: ``vitatlas head probe`` and ``vitatlas head prototypes``.

    Attributes:
        command: kind of the head: linear probe, or prototypes.
        model: the backbone.
        read_out: features that the head reads; None is what the network itself reads out.
        shards: shards of labelled images.
        held_out: shards of images to evaluate on; empty takes a part of ``shards``.
        classes: class names; a label must be an index of them. Empty takes the labels as names.
        out: path of the head file.
        features: folder in which the features stay; None removes them when the head is made.
        geometry: as in ``RunSpec``.
        batch_size: as in ``RunSpec``.
        key_separator: as in ``RunSpec``.
        image_key: as in ``RunSpec``.
        exif: as in ``RunSpec``.
        l2: strengths of the regularization to choose from, for a probe.
        held_out_share: part of the images of each class to evaluate on, for a probe without ``held_out``.
        images: images of each class that make its prototype.
    """

    command: Command
    model: ModelSpec
    read_out: HeadReadout | None = None
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    held_out: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    out: str
    features: str | None = None
    geometry: Geometry = "squash"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    key_separator: KeySeparator = "first-dot"
    image_key: tuple[str, ...] = ()
    exif: Exif = "apply"
    l2: Annotated[tuple[Strength, ...], Field(min_length=1)] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    held_out_share: Share = 0.1
    images: Annotated[int, Field(ge=1)] = 5

    @property
    def grouping(self) -> Grouping:
        """Rule by which the members of a shard become samples."""
        return Grouping(self.key_separator, self.image_key)


class HeadMetrics(Record):
    """Values of a head on held-out images.

    Attributes:
        accuracy: top-1 accuracy, in [0, 1].
        nll: mean negative logarithm of the probability of the label, in nats.
        ece: expected calibration error of the most probable class, in [0, 1].
    """

    accuracy: Finite
    nll: Finite
    ece: Finite


class ProbeFit(Record):
    """One strength of the regularization of a probe.

    Attributes:
        l2: the strength.
        steps: steps of L-BFGS.
        gradient: largest entry of the gradient at the end, in units of the tolerance.
        converged: whether that is at most 1.
        held_out: values on the held-out images.
    """

    l2: Strength
    steps: Count
    gradient: Finite
    converged: bool
    held_out: HeadMetrics


class LearnedHeadRecord(Record):
    """How a head was made; ``provenance`` of its ``HeadRecord`` is this record as JSON.

    Attributes:
        command: kind of the head.
        identity: hash of all that decides the head, so that the same command finds it made.
        model: name of the backbone.
        geometry: as in ``RunSpec``.
        shards: names of the shards.
        held_out: names of the held-out shards; empty where a part of ``shards`` was held out.
        images: number of images that it was learned from.
        held_out_images: number of images that it was evaluated on.
        repeated: number of held-out images that were dropped, since they are training images as well.
        left_out: number of samples without features or label, by status.
        absent_classes: number of classes without a training image.
        small_classes: number of prototypes from fewer images than were asked for.
        setting: the chosen ``l2`` of a probe, or the scale of prototypes: of the least ``nll`` on the held-out images.
        fits: of a probe, by strength.
        metrics: values on the held-out images, the same by which ``setting`` was chosen.
    """

    command: Command
    identity: str
    model: str
    geometry: Geometry
    shards: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    images: Count
    held_out_images: Count
    repeated: Count
    left_out: dict[str, int]
    absent_classes: Count
    small_classes: Count = 0
    setting: Finite
    fits: tuple[ProbeFit, ...] = ()
    metrics: HeadMetrics
