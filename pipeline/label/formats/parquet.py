"""Masks as run lengths in Parquet tables."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from pycocotools import mask as rle

from pipeline.label.formats.base import ExportContext, LabelFormat, OutputObject
from pipeline.label.mask import Label
from pipeline.store.parquet import to_parquet

_RLE = pa.struct([pa.field("size", pa.list_(pa.int32())), pa.field("counts", pa.binary())])

MASKS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mask", _RLE),
        pa.field("ignore", _RLE),
        pa.field("bbox", pa.list_(pa.int32())),
        pa.field("area", pa.int64()),
    ]
)
"""Columns. ``row`` to ``height`` are those of ``schemas.labels.LABELS``; those after ``status`` are null where unknown.

- ``mask``, ``ignore`` – COCO run lengths, as ``pycocotools.mask.decode`` takes them; null without a mask.
- ``bbox`` – box of the mask as in COCO: x, y, width, height; null if it is empty. ``area`` – of the mask, in pixels.
"""


class ParquetFormat(LabelFormat):
    """``parquet/<shard>.parquet``: a row for each sample, as ``MASKS``. Its metadata hold the policy's hash."""

    needs_class = False

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        schema = MASKS.with_metadata({"policy": context.policy_hash})
        yield f"parquet/{shard}.parquet", to_parquet(pa.Table.from_pylist([_row(label) for label in labels], schema))


def _row(label: Label) -> dict[str, Any]:
    area = None if label.mask_rle is None else int(rle.area(label.mask_rle))
    return {
        "row": label.sample["row"],
        "key": label.sample["key"],
        "status": label.status,
        "label": label.class_id,
        "width": label.sample["width"],
        "height": label.sample["height"],
        "mask": label.mask_rle,
        "ignore": label.ignore_rle,
        "bbox": rle.toBbox(label.mask_rle).astype(int).tolist() if area else None,
        "area": area,
    }
