"""Scores of maps, masks and boxes, of atlases and of other programs, against ground truth."""

from pipeline.score.mask_quality import MaskScores, score_masks
from pipeline.score.score_classes import score_classes
from pipeline.score.score_sources import default_output_dir, score
from pipeline.score.sources import open_source

__all__ = ["MaskScores", "default_output_dir", "open_source", "score", "score_classes", "score_masks"]
