"""Maps to pseudo-masks: policies, and one file for each format."""

from typing import TYPE_CHECKING

from pipeline.label.formats import EXPORTERS
from pipeline.label.labels import labels_of
from pipeline.label.make import Labelled, label, read_labels, read_policy
from pipeline.label.tune import Tuning

if TYPE_CHECKING:
    from pipeline.label.dataset import MaskDataset, MaskSample

__all__ = [
    "EXPORTERS",
    "Labelled",
    "MaskDataset",
    "MaskSample",
    "Tuning",
    "label",
    "labels_of",
    "read_labels",
    "read_policy",
]


def __getattr__(name: str) -> object:
    if name in ("MaskDataset", "MaskSample"):  # of torch, which nothing else here needs
        from pipeline.label import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
