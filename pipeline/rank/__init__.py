"""Which methods to trust on a network: signals without truth, verdicts, and a policy."""

from pipeline.rank.rank_atlas import RankOptions, rank_atlas

__all__ = ["RankOptions", "rank_atlas"]
