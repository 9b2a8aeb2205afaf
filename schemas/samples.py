"""The sample table: one row for every sample of a shard, with or without maps."""

from enum import StrEnum

import pyarrow as pa

from schemas.arrow import CATEGORY, column, optional, schema
from schemas.run import TargetKind


class SampleStatus(StrEnum):
    """Status of a sample. Only ``OK`` rows have maps.

    Attributes:
        OK: it has maps.
        MISSING_IMAGE: it has no image member.
        UNDECODABLE: the image is damaged, too large, or not an image.
        MISSING_LABEL: it has no label; used only where ``label`` is a target kind.
        BAD_LABEL: the label is not a number; used only where ``label`` is a target kind.
        LABEL_OUT_OF_RANGE: the network has no such class; used only where ``label`` is a target kind.
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
    optional("error", pa.string(), "one sentence that describes the error; null if ``ok``"),
    optional("label", pa.int32(), "class id of the ``cls`` member"),
    optional("prediction", pa.int32(), "class id with the highest logit"),
    optional("probability", pa.float32(), "probability of the prediction: softmax, or sigmoid by the head file"),
    optional("label_probability", pa.float32(), "probability of the label, likewise"),
    optional("label_rank", pa.int32(), "rank of the label among the logits; 0 is the highest"),
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

CLASS_COLUMNS: dict[TargetKind, str] = {"label": "label", "predicted": "prediction"}
"""Column of the class id that maps explain, by target kind."""
