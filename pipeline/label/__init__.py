"""Pseudo-masks from maps: policies, and one module for each export format.

Names are imported when they are used, so that the command line can list formats without delay.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pipeline.label.formats import LABEL_FORMATS

if TYPE_CHECKING:
    from pipeline.label.box_dataset import BoxDataset
    from pipeline.label.calibrate import CalibrationSource
    from pipeline.label.foreign_masks import ImportSummary, import_masks
    from pipeline.label.label_atlas import LabelSummary, label, read_labels, read_policy
    from pipeline.label.label_shard import iter_labels
    from pipeline.label.mask_dataset import MaskDataset, MaskSample

_MODULES = {
    "BoxDataset": "box_dataset",
    "CalibrationSource": "calibrate",
    "ImportSummary": "foreign_masks",
    "LabelSummary": "label_atlas",
    "MaskDataset": "mask_dataset",
    "MaskSample": "mask_dataset",
    "import_masks": "foreign_masks",
    "iter_labels": "label_shard",
    "label": "label_atlas",
    "read_labels": "label_atlas",
    "read_policy": "label_atlas",
}

__all__ = [
    "LABEL_FORMATS",
    "BoxDataset",
    "CalibrationSource",
    "ImportSummary",
    "LabelSummary",
    "MaskDataset",
    "MaskSample",
    "import_masks",
    "iter_labels",
    "label",
    "read_labels",
    "read_policy",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"pipeline.label.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
