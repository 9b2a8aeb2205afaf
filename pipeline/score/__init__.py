"""Scores of maps and pseudo-masks against ground truth."""

from pipeline.score.mask_quality import MaskScores, score_masks
from pipeline.score.score_atlas import default_output_dir, score
from pipeline.score.score_classes import score_classes

__all__ = ["MaskScores", "default_output_dir", "score", "score_classes", "score_masks"]
