"""Sources of predictions that are scored."""

from pipeline.score.sources.atlas_source import AtlasSource
from pipeline.score.sources.source import ScoreSource, SourceImage

__all__ = ["AtlasSource", "ScoreSource", "SourceImage"]
