"""The label table: one row for every sample of a tar, with or without a mask."""

import pyarrow as pa

LABELS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("threshold", pa.float64()),
        pa.field("area", pa.float64()),
        pa.field("components", pa.int32()),
        pa.field("boxes", pa.list_(pa.list_(pa.int32(), 4))),
        pa.field("probability", pa.float32()),
    ]
)
"""Columns:

- ``row``, ``key`` – of the sample; ``status`` – ``ok``, ``empty`` (nothing is foreground), or that of the
  sample where it has no map.
- ``label`` – the class that the mask is of; ``probability`` – what the network gives it.
- ``width``, ``height`` – of mask and original picture. ``threshold`` – that was used. ``area`` – fraction of
  the picture that is foreground. ``components`` – of the foreground; ``boxes`` – one for each, tight,
  x0, y0, x1, y1 in original pixels, both ends inclusive, largest component first.
"""
