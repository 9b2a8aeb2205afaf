"""The sample table: one row for every sample of a shard, with or without maps."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrow import CATEGORY, column, optional, schema


class SampleStatus(StrEnum):
    """Status of a sample. Only ``OK`` rows have maps.

    Attributes:
        OK: it has maps.
        MISSING_IMAGE: it has no image member.
        UNDECODABLE: the image is damaged, too large, or not an image.
        MISSING_LABEL: it has no label; used only where ``label`` is a target kind.
        BAD_LABEL: the label is not a number; used only where ``label`` is a target kind.
        LABEL_OUT_OF_RANGE: the network has no such class; used only where ``label`` is a target kind.
        MISSING_TEXT: it has no text, or an empty one; used only where ``text`` is a target kind.
        BAD_TEXT: the text cannot be read, or is longer than the text tower reads; likewise.
        DUPLICATE_KEY: an earlier sample of the shard has this key.
        UNSAFE_KEY: the key is absolute, contains ``..`` or is not UTF-8.
        NOT_FINITE: the network returned NaN or infinity.
    """

    OK = "ok"
    MISSING_IMAGE = "missing_image"
    UNDECODABLE = "undecodable"
    MISSING_LABEL = "missing_label"
    BAD_LABEL = "bad_label"
    LABEL_OUT_OF_RANGE = "label_out_of_range"
    MISSING_TEXT = "missing_text"
    BAD_TEXT = "bad_text"
    DUPLICATE_KEY = "duplicate_key"
    UNSAFE_KEY = "unsafe_key"
    NOT_FINITE = "not_finite"


_TRANSFORM = (
    "from input to original pixels, measured from the upper left corner of the upper left pixel: "
    "``x_original = scale_x · x_input + offset_x``"
)

SAMPLES = schema(
    column("row", pa.int64(), "index into every array of ``maps.zarr``: ``shard_index × slot + ordinal``"),
    column("shard", CATEGORY, "short name of the shard; ``shard`` and ``ordinal`` identify a sample"),
    column("ordinal", pa.int32(), "position of the sample in its shard, from 0"),
    column("key", pa.string(), "WebDataset key; keys need not be unique across shards"),
    optional("member", pa.string(), "name of the image in the tar file"),
    column("status", CATEGORY, "a ``SampleStatus``"),
    optional("error", pa.string(), "one sentence that describes the error, or what was left out"),
    optional("label", pa.int32(), "class id of the label; null where there are several"),
    optional(
        "labels",
        pa.list_(pa.int32()),
        "class ids of all labels, where there are several or ``label:M`` is a target kind",
    ),
    optional("prediction", pa.int32(), "class id with the highest logit"),
    optional("probability", pa.float32(), "probability of the prediction: softmax, or sigmoid by the head file"),
    optional("label_probability", pa.float32(), "probability of the label, likewise"),
    optional("label_rank", pa.int32(), "rank of the label, or the best of several, among the logits; 0 is the highest"),
    optional(
        "target_classes",
        pa.list_(pa.int32()),
        "class id that each map explains, in the order of the ``target`` dimension; null in older tables",
    ),
    optional("target_probabilities", pa.list_(pa.float32()), "probability that the network gives each of these"),
    optional("target_texts", pa.list_(pa.string()), "text that each map explains; null where it explains a class"),
    optional("target_similarities", pa.list_(pa.float32()), "cosine of the embeddings of image and text"),
    optional("width", pa.int32(), "width of the image in pixels, upright by EXIF unless the run ignores it"),
    optional("height", pa.int32(), "height of the image in pixels, upright by EXIF unless the run ignores it"),
    optional("orientation", pa.int8(), "EXIF orientation, 1–8"),
    *(optional(name, pa.float64(), _TRANSFORM) for name in ("scale_x", "scale_y", "offset_x", "offset_y")),
    optional("image_bytes", pa.int64(), "size of the encoded image"),
    optional("image_sha256", pa.string(), "SHA-256 of the encoded image"),
    optional(
        "fallback",
        CATEGORY,
        "in a run that decodes on the GPU, why this image was decoded in a process: its format (``PNG``, ``WEBP``, "
        "``PPM``, ``BMP``, ``CMYK``), ``colors`` other than YCbCr, unusual ``sampling``, ``orientation``, ``not "
        "baseline`` (such as progressive), ``several scans``, ``truncated``, ``large`` (more than 32 million "
        "pixels, or reduced more than 32 times), or ``refused`` by the GPU; null where the GPU decoded it",
    ),
)
"""One row per sample of a shard, in the order of the shard."""

LATER_COLUMNS = ("labels", "target_classes", "target_probabilities", "target_texts", "target_similarities")
"""Columns that tables of earlier versions lack. They are read as null."""
TARGET_COLUMNS = ("target_classes", "target_probabilities", "target_texts", "target_similarities")
"""Columns that have a value for each target."""
LABEL_COLUMNS = ("label", "labels", "label_probability", "label_rank", "error")
"""Columns that may lack a value where no target is a label."""
_OWN_COLUMNS = {"label": ("label", "label_probability"), "predicted": ("prediction", "probability")}
"""Columns of class id and probability that hold one target each, in tables of all versions."""


def may_lack(target: str) -> bool:
    """Return whether a sample with maps may have none of a target: it may have one label, and ``label:2`` none."""
    return target.startswith("label:")


def has_map(sample: Mapping[str, Any], place: int, target: str) -> bool:
    """Return whether a sample with maps has one of a target.

    Args:
        sample: its row of the sample table.
        place: of the target on its dimension.
        target: the target.
    """
    return not may_lack(target) or sample["target_classes"][place] is not None


def class_columns(target: str) -> tuple[str, ...]:
    """Return the columns that ``class_ids`` reads."""
    return _OWN_COLUMNS[target][:1] if target in _OWN_COLUMNS else ("target_classes",)


def class_ids(samples: pa.Table, target: str, targets: Sequence[str]) -> pa.ChunkedArray:
    """Return the class that the maps of a target explain: int32 [n], null where there is none.

    Args:
        samples: n rows of the sample table, with ``class_columns``.
        target: the target.
        targets: all targets of the run.
    """
    (name,) = class_columns(target)
    return samples[name] if target in _OWN_COLUMNS else pc.list_element(samples[name], list(targets).index(target))


def explained_class(sample: Mapping[str, Any], target: str, targets: Sequence[str]) -> tuple[int | None, float | None]:
    """Return the class that the maps of a target explain in one sample, and its probability; None where it has none.

    Args:
        sample: its row of the sample table.
        target: the target.
        targets: all targets of the run.
    """
    if target in _OWN_COLUMNS:
        class_id, probability = (sample[name] for name in _OWN_COLUMNS[target])
    else:
        place = list(targets).index(target)
        class_id, probability = (
            None if sample[name] is None else sample[name][place] for name in ("target_classes", "target_probabilities")
        )
    return class_id, probability
