"""Sources of predictions that are scored: atlases, and files of other programs."""

from pipeline.score.sources.atlas_source import AtlasSource
from pipeline.score.sources.open_source import is_atlas, open_source
from pipeline.score.sources.source import ScoreSource, SourceImage

__all__ = ["AtlasSource", "ScoreSource", "SourceImage", "is_atlas", "open_source"]
