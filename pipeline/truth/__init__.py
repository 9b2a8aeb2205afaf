"""Ground truth of images: readers for the annotation formats in common use."""

from pipeline.truth.registry import read_masks, read_truth
from pipeline.truth.truth import Truth
from pipeline.truth.truth_set import TruthMatcher, TruthSet

__all__ = ["Truth", "TruthMatcher", "TruthSet", "read_masks", "read_truth"]
