"""Numbers that say how good maps are."""

from pipeline.score.truth import read_truth
from pipeline.score.wsol import score

__all__ = ["read_truth", "score"]
