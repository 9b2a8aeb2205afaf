"""Counts of a source shard by shard: what tables of scores are computed from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.run.derive import DerivedProduct
from pipeline.score.counters import ScoreCounts, from_npz
from pipeline.score.score_shard import counts_object
from pipeline.score.sources import ScoreSource
from pipeline.score.splits import ShardTruth
from pipeline.score.trivial_boxes import TRIVIAL_BOXES
from pipeline.store import ObjectStore
from pipeline.store.derived import ProductStore
from schemas.commits import DerivedCommit
from schemas.scores import ScoringSpec

TABLE, CURVES, DIFFERENCES = "localization.parquet", "curves.parquet", "differences.parquet"
PRINTED, PLOTS = ("localization.tex", "localization.md"), ("curves.png", "curves.pdf")
SUMMARY = (TABLE, CURVES, DIFFERENCES, *PRINTED, *PLOTS)
"""What is made of all counts together."""


@dataclass(frozen=True)
class TotalCounts:
    """Counts of a source over all its shards.

    Attributes:
        by_method: counts of each method and trivial box.
        statuses: number of images by status.
    """

    by_method: dict[str, ScoreCounts]
    statuses: Counter[str]


@dataclass(frozen=True, kw_only=True)
class CountedSource(DerivedProduct[ScoreSource, ShardTruth, TotalCounts]):
    """The counts of a source.

    Attributes:
        tables: folder of the tables that are made of them.
        shard_truths: truth of the scored shards, by name.
    """

    about: ScoringSpec
    tables: ObjectStore
    shard_truths: dict[str, ShardTruth]

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(self.shard_truths)

    def is_complete(self, commit: DerivedCommit) -> bool:
        return {*TRIVIAL_BOXES, *self.source.methods} <= set(commit.items)

    def remove_summary(self) -> None:
        for name in SUMMARY:
            self.tables.delete(name)

    def source_of(self, shard: str) -> ScoreSource:
        return self.source.of_shard(shard)

    def inputs(self, shards: Sequence[str]) -> list[ShardTruth]:
        return [self.shard_truths[shard] for shard in shards]

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> TotalCounts:
        total = {method: ScoreCounts() for method in (*TRIVIAL_BOXES, *self.source.methods)}
        names = [counts_object(shard) for shard in self.shards]
        for name, data in zip(names, self.objects.read(names), strict=True):
            by_method = from_npz(data, f"{self.objects.url}/{name}")
            total = {method: counts + by_method[method] for method, counts in total.items()}
        return TotalCounts(total, sum((Counter(commit.counts) for commit in commits.values()), Counter[str]()))
