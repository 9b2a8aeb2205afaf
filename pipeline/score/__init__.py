"""Numbers that say how good maps are."""

from pipeline.score.masks import MaskScores, score_masks
from pipeline.score.wsol import folder_of, score

__all__ = ["MaskScores", "folder_of", "score", "score_masks"]
