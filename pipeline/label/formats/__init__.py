"""Formats of labels, one file each, and their registry."""

from typing import TYPE_CHECKING

from pipeline.utils.lazy_registry import LazyRegistry

if TYPE_CHECKING:
    from pipeline.label.formats.base import LabelFormat

LABEL_FORMATS: "LazyRegistry[LabelFormat]" = LazyRegistry(
    "pipeline.label.formats",
    {
        "png": "webdataset_png.WebDatasetPngFormat",
        "coco": "coco.CocoFormat",
        "voc": "voc.VocFormat",
        "parquet": "parquet.ParquetFormat",
        "imagenet_s": "imagenet_s.ImageNetSFormat",
        "wsol": "wsolevaluation.WsolEvaluationFormat",
        "cvat": "cvat.CvatFormat",
        "labelstudio": "labelstudio.LabelStudioFormat",
        "fiftyone": "fiftyone.FiftyOneFormat",
        "sam": "sam.SamFormat",
    },
)
"""All label formats by name. An entry registers the format whose class is in a module of this package."""

__all__ = ["LABEL_FORMATS"]
