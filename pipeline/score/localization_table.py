"""The localization table of one or several sources, and what is printed and drawn of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.score.aggregate import MethodScores, score_method
from pipeline.score.counted_source import CURVES, DIFFERENCES, PLOTS, PRINTED, TABLE, TotalCounts
from pipeline.score.counters import ScoreCounts
from pipeline.score.differences import difference_table
from pipeline.score.plots import curve_table, plot_scores
from pipeline.score.printed_scores import print_localization
from pipeline.score.sources import ScoreSource
from pipeline.score.threshold_grid import ThresholdGrid
from pipeline.score.trivial_boxes import TRIVIAL_BOXES
from pipeline.store.derived import ProductStore
from pipeline.store.parquet import to_parquet
from schemas.scores import LOCALIZATION, ScoringSpec


@dataclass(frozen=True)
class ScoredSource:
    """A source with the counts of all its images.

    Attributes:
        source: of the predictions.
        total: of the scored images.
        tuning: counts of further images, which only thresholds are tuned on.
    """

    source: ScoreSource
    total: TotalCounts
    tuning: Mapping[str, ScoreCounts]

    def counts(self, method: str) -> ScoreCounts:
        """Return the counts of a method or a trivial box, those of tuning images included."""
        counts = self.total.by_method[method]
        return counts + self.tuning[method] if self.tuning else counts


@dataclass(frozen=True)
class ScoredMethod:
    """What a row of the table is of.

    Attributes:
        scored: the source.
        identity: columns that say what is scored.
        counts: of all images, those of tuning images included.
        has_maps: false for boxes.
    """

    scored: ScoredSource
    identity: dict[str, str | None]
    counts: ScoreCounts
    has_maps: bool

    @property
    def method(self) -> str:
        """Name of the method or trivial box."""
        return str(self.identity["method"])


def list_methods(sources: Sequence[ScoredSource]) -> list[ScoredMethod]:
    """Return the methods of sources of the same images.

    Trivial boxes are of no source; beside several they have one row, without the scores that depend on a network.
    """
    methods = []
    for place, scored in enumerate(sources):
        source = scored.source
        for method in (*(TRIVIAL_BOXES if not place else ()), *source.methods):
            is_trivial = method in TRIVIAL_BOXES
            identity = source.identify(method)
            if is_trivial and len(sources) > 1:
                identity |= {"source": None, "target": None, "network": None}
            has_maps = source.has_maps and not is_trivial
            methods.append(ScoredMethod(scored, identity, scored.counts(method), has_maps))
    return methods


def score_rows(methods: Sequence[ScoredMethod], grid: ThresholdGrid) -> list[MethodScores]:
    """Return the rows of the table: best PxAP first; rows without one after them, best MaxBoxAccV2 first.

    Args:
        methods: of the same images.
        grid: thresholds of boxes and of PxAP.
    """
    rows = []
    for each in methods:
        scores = score_method(each.identity["target"], each.counts, grid, each.has_maps)
        left_out = {name: each.scored.total.statuses.get(name, 0) for name in ("without_maps", "without_object")}
        rows.append(MethodScores(each.identity | left_out | scores.columns, scores.replicates))
    return sorted(rows, key=lambda row: (-(row.columns["pxap"] or 0), -row.columns["maxboxacc_v2"]))


def write_table(
    methods: Sequence[ScoredMethod], grid: ThresholdGrid, about: ScoringSpec, objects: ProductStore
) -> pa.Table:
    """Write the tables and plots of methods, and return the first.

    Args:
        methods: of the same images.
        grid: thresholds of boxes and of PxAP.
        about: settings of the first source; those that are printed are the same for all.
        objects: output folder.
    """
    rows = score_rows(methods, grid)
    table = pa.Table.from_pylist([row.columns for row in rows], schema=LOCALIZATION)
    counts = {(each.scored.source.name, each.method): each.counts for each in methods if each.has_maps}
    curves = curve_table(counts, grid)
    objects.put(DIFFERENCES, to_parquet(difference_table(rows)))
    objects.put(CURVES, to_parquet(curves))
    printed = zip(PRINTED, print_localization(table.to_pylist(), about), strict=True)
    for name, data in (*printed, *zip(PLOTS, plot_scores(table, curves), strict=True)):
        objects.put(name, data)
    objects.put(TABLE, to_parquet(table))
    return table
