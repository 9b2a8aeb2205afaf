"""Numbers that say how good maps are."""

from pipeline.score.masks import MaskScores, score_masks
from pipeline.score.wsol import score

__all__ = ["MaskScores", "score", "score_masks"]
