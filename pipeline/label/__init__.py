"""Maps to pseudo-masks: policies, and one file for each format."""

from typing import TYPE_CHECKING

from pipeline.label.calibrate import CalibrationSource
from pipeline.label.formats import LABEL_FORMATS
from pipeline.label.label_atlas import LabelSummary, label, read_labels, read_policy
from pipeline.label.label_shard import iter_labels

if TYPE_CHECKING:
    from pipeline.label.mask_dataset import MaskDataset, MaskSample

__all__ = [
    "LABEL_FORMATS",
    "CalibrationSource",
    "LabelSummary",
    "MaskDataset",
    "MaskSample",
    "iter_labels",
    "label",
    "read_labels",
    "read_policy",
]


def __getattr__(name: str) -> object:
    if name in ("MaskDataset", "MaskSample"):  # of torch, which nothing else here needs
        from pipeline.label import mask_dataset

        return getattr(mask_dataset, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
