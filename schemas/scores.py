"""The table of localization scores: one row a method."""

import pyarrow as pa

LOCALIZATION = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("pxap", pa.float64()),
        pa.field("maxboxacc", pa.float64(), nullable=False),
        pa.field("maxboxacc_v2", pa.float64(), nullable=False),
        pa.field("iou30", pa.float64(), nullable=False),
        pa.field("iou50", pa.float64(), nullable=False),
        pa.field("iou70", pa.float64(), nullable=False),
    ]
)
"""All scores in %, with the best threshold on these very images (an upper bound, not a threshold that one
could have chosen). ``pxap`` is null where the truth has boxes only. ``iou30`` … are the terms whose mean is
``maxboxacc_v2``."""
