"""The sample table: one row for every image of a shard, whatever became of it."""

from enum import StrEnum

import pyarrow as pa

from schemas.arrow import CATEGORY


class SampleStatus(StrEnum):
    """What became of a sample. Only ``OK`` rows have maps.

    Attributes:
        OK: it has maps.
        MISSING_IMAGE: no member is an image.
        UNDECODABLE: the image is damaged, too large, or none.
        MISSING_LABEL, BAD_LABEL, LABEL_OUT_OF_RANGE: only where ``label`` is among the targets.
        DUPLICATE_KEY: the shard has this key already.
        UNSAFE_KEY: it is absolute, climbs (``..``) or is not UTF-8.
        NOT_FINITE: the network gave NaN or infinity.
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


SAMPLES = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("shard", CATEGORY, nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("status", CATEGORY, nullable=False),
        pa.field("error", pa.string()),
        pa.field("label", pa.int32()),
        pa.field("prediction", pa.int32()),
        pa.field("probability", pa.float32()),
        pa.field("label_probability", pa.float32()),
        pa.field("label_rank", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("orientation", pa.int8()),
        pa.field("scale_x", pa.float64()),
        pa.field("scale_y", pa.float64()),
        pa.field("offset_x", pa.float64()),
        pa.field("offset_y", pa.float64()),
        pa.field("image_bytes", pa.int64()),
        pa.field("image_sha256", pa.string()),
        pa.field("fallback", CATEGORY),
    ]
)
"""Columns:

- ``row`` – index into every array of ``maps.zarr``: ``shard_index × slot + ordinal``.
- ``shard``, ``ordinal`` – which shard, and the how-manieth sample in it: the identity of a sample.
- ``key`` – its WebDataset key; keys need not be unique across shards. ``member`` – name of its image in the shard.
- ``status``, ``error`` – a ``SampleStatus``, and one sentence where something is wrong.
- ``label`` – the class of the ``cls`` member. ``prediction``, ``probability`` – the network's top class and
  its softmax probability. ``label_probability``, ``label_rank`` – the same of the label; rank 0 is the top.
- ``width``, ``height`` – the original in pixels, after its orientation was applied. ``orientation`` – of EXIF, 1–8.
- ``scale_x`` … ``offset_y`` – from the network's input to the original, in pixels measured from the upper
  left corner of the upper left pixel: ``x_original = scale_x · x_input + offset_x``.
- ``image_bytes``, ``image_sha256`` – of the encoded image.
- ``fallback`` – in a run that decodes on the GPU, why this image was decoded in a process: its kind (``PNG``, ``WEBP``,
  ``PPM``, ``BMP``, ``CMYK``), ``colours`` that are not YCbCr, unusual ``sampling``, ``orientation``, ``not baseline``
  (progressive, for one), ``several scans``, ``truncated``, ``large`` (more than 32 million pixels, or shrunk more than
  32 times), or ``refused`` by the GPU; null where the GPU decoded it.
"""
