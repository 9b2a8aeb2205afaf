"""What really is in pictures, from the annotation files that people have."""

from pipeline.truth.claims import Claims
from pipeline.truth.registry import read_truth
from pipeline.truth.truth import Truth, Truths

__all__ = ["Claims", "Truth", "Truths", "read_truth"]
