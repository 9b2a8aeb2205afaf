"""Numbers that say how good maps are."""

from pipeline.score.mask_quality import MaskScores, score_masks
from pipeline.score.score_atlas import folder_of, score

__all__ = ["MaskScores", "folder_of", "score", "score_masks"]
