"""The label table: one row for every sample of a shard, with or without a mask."""

from enum import StrEnum
from typing import Annotated

import pyarrow as pa
from pydantic import ConfigDict, Field

from schemas.arrow import CATEGORY, column, optional, schema
from schemas.base import GrowingRecord, Record
from schemas.run import Exif, Extension, Grouping, KeySeparator

VERSION = 4
"""Version of the content and format of labels."""


class LabelStatus(StrEnum):
    """Status of a label. Samples without maps keep their ``SampleStatus``.

    Attributes:
        OK: it has a mask.
        EMPTY: its mask has no foreground.
        MISSING_MASK: its mask was to come from elsewhere, and is not there.
        NO_LABEL: it has fewer labels than the target asks for.
        NOT_IN_ALL: another atlas of the policy has no maps of its image.
        OTHER_CLASS: the networks of the policy explain different classes of it.
        NO_SIGNAL: its maps are constant or were not finite.
        LOW_PROBABILITY: the filter removed it: the class is not probable enough.
        NOT_TOP1: the filter removed it: the prediction is not the label.
        TOO_SMALL: the filter removed it: the foreground is too small.
        TOO_LARGE: the filter removed it: the foreground is too large.
        DISAGREEMENT: the filter removed it: the masks of the methods overlap too little.
    """

    OK = "ok"
    EMPTY = "empty"
    MISSING_MASK = "missing_mask"
    NO_LABEL = "no_label"
    NOT_IN_ALL = "not_in_all"
    OTHER_CLASS = "other_class"
    NO_SIGNAL = "no_signal"
    LOW_PROBABILITY = "low_probability"
    NOT_TOP1 = "not_top1"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    DISAGREEMENT = "disagreement"


LABELS = schema(
    column("row", pa.int64(), "row of the sample in the atlas"),
    column("key", pa.string(), "key of the sample"),
    column(
        "status",
        CATEGORY,
        "a ``LabelStatus``, or the ``SampleStatus`` if it has no maps; only ``ok`` and ``empty`` have a mask",
    ),
    optional("label", pa.int32(), "class id that the mask is of"),
    optional("width", pa.int32(), "width of mask and original image in pixels"),
    optional("height", pa.int32(), "height of mask and original image in pixels"),
    optional("threshold", pa.float64(), "foreground is above this value of the heatmap"),
    optional(
        "background",
        pa.float64(),
        "background is at or below this value of the heatmap; null where no pixel is ignored",
    ),
    optional("area", pa.float64(), "fraction of the image that is foreground"),
    optional("ignored", pa.float64(), "fraction of the image that is ignored"),
    optional("components", pa.int32(), "number of components of the foreground"),
    optional(
        "boxes",
        pa.list_(pa.list_(pa.int32())),
        "tight box of each component: x0, y0, x1, y1 in original pixels, both ends inclusive, largest first",
    ),
    optional("probability", pa.float32(), "probability of the class: softmax, or sigmoid by the head file"),
    optional("agreement", pa.float64(), "mean IoU between the masks of each two methods; null for a single method"),
    optional("image_sha256", pa.string(), "SHA-256 of the encoded image"),
    column("policy", CATEGORY, "hash of the policy; of masks made elsewhere that of the ``ImportSpec``"),
    column("parent", CATEGORY, "hash of the maps and samples of the shard that the label was made from"),
)
"""One row per sample of a shard, in the order of the shard."""


class MaskRecord(Record):
    """``<key>.json`` beside a mask in a shard of ``--format png``: the part that its readers need.

    Attributes:
        status: a ``LabelStatus``, or the ``SampleStatus`` of a sample without maps.
        label: class id of the object; None without a mask, and of a text.
        orientation: EXIF orientation of the image, 1 to 8; None if it is not known.
        exif: whether the mask is of the image turned upright (``apply``) or as it is stored (``ignore``); None if that
            is not known.
        key_separator: dot of a file name that ends the key of its sample, as in the run.
        image_key: extensions of the image in a sample that has several, as in the run.
    """

    model_config = ConfigDict(extra="ignore")
    status: str
    label: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    orientation: Annotated[int, Field(ge=1, le=8)] | None = None
    exif: Exif | None = None
    key_separator: KeySeparator = "first-dot"
    image_key: tuple[Extension, ...] = ()

    @property
    def grouping(self) -> Grouping:
        """Rule by which the members of the image shard become samples."""
        return Grouping(self.key_separator, self.image_key)


class LabelingSpec(GrowingRecord):
    """``policy.json`` of a folder of labels: what they are made from. Written first.

    Attributes:
        version: version of the code that makes labels; labels of another version are not resumed.
        policy: policy as it was given.
        hash: hash of the policy that was applied.
        run: hash of the run that made the atlas; of several, of the one that has the rows.
        classes: hash of the class names; None where they are numbers.
        truth: hash of the truth that the threshold was calibrated on.
        tuned: hashes of the run, and of its parts, whose maps the threshold was calibrated on.
        threshold: calibrated threshold; None where the policy has its own.
        calibration: description of the calibration; None where the policy has its own threshold.
        networks: hash of the run of each atlas by the name in front of its methods, where they are of several.
    """

    later_fields = frozenset({"networks"})
    version: int = VERSION
    policy: dict[str, object]
    run: str
    classes: str | None = None
    truth: str | None = None
    tuned: str | None = None
    threshold: float | None = None
    calibration: str | None = None
    hash: str = ""
    networks: dict[str, str] = Field(default_factory=dict)


class ImportSpec(Record):
    """``about.json`` of a folder of labels whose masks were made elsewhere: where they come from. Written first.

    Attributes:
        version: version of the code that makes labels; labels of another version are not resumed.
        source: name of the file or folder of the masks.
        masks: hash of all that was read, and of how it was read.
        tool: what made the masks, as the user named it; None if they did not.
        target: the masks are of the class that the maps of this target explain.
        run: hash of the run that made the atlas.
        classes: hash of the class names; None where they are numbers.
    """

    version: int = VERSION
    source: str
    masks: str
    tool: str | None = None
    target: str
    run: str
    classes: str | None = None


class MergedRecord(Record):
    """The part of ``summary.json`` of a folder of labels that the next command needs.

    Attributes:
        merged: objects that were made of all shards together.
    """

    model_config = ConfigDict(extra="ignore")
    merged: tuple[str, ...]
