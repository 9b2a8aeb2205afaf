"""Maps to pseudo-masks: policies, and one file for each format."""

from pipeline.label.make import EXPORTERS, label, labels_of, read_policy

__all__ = ["EXPORTERS", "label", "labels_of", "read_policy"]
