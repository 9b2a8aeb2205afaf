"""Scores of all kinds in one form, for tables and plots: value and interval by method, and the better direction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audit.report.load_tables import AuditTables
from pipeline.utils.ranks import mean_ranks
from schemas.audit_tables import MAP_STATISTICS
from schemas.metrics import METRIC_DESCRIPTIONS, Direction
from schemas.scores import SCORES, is_control

LOCALIZATION = "Localization"
"""Name of groups of localization scores."""
MIN_IMAGES = 30
"""Number of images below which a bootstrap interval is not trusted."""

_LOCALIZATION_TITLES = {
    "pxap": "PxAP",
    "maxboxacc_v2": "MaxBoxAcc V2",
    "gt_known": "GT-known",
    "top1_loc": "Top-1 loc",
    "iou": "IoU",
    "seg_miou": "seg. mIoU",
    "pointing": "pointing",
    "energy": "energy",
}
_CAUSAL = frozenset(("deletion", "insertion", "abpc", "positive", "negative"))
_SHOWN_STATISTICS = ("agreement", "entropy", "effective_area", "border_mass", "corner_mass", "object_mass")
_DESCRIPTIONS = {
    **METRIC_DESCRIPTIONS,
    **MAP_STATISTICS,
    **{title: SCORES[name] for name, title in _LOCALIZATION_TITLES.items()},
}


def describe_score(title: str) -> str:
    """Return the description of a score, a metric or a statistic as plain text; empty if there is none."""
    return _DESCRIPTIONS.get(title, "").replace("``", "")


@dataclass(frozen=True)
class ScoreValue:
    """A score of a method.

    Attributes:
        mean: mean over the images.
        low: lower end of the 95 % interval; None without interval.
        high: upper end of the 95 % interval; None without interval.
        note: a caveat that readers must know.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class ScoreColumn:
    """A score of all methods.

    Attributes:
        name: title of the column.
        better: direction that is better; None for a descriptive statistic.
        digits: digits after the decimal point.
        values: by method; methods without a value are missing.
    """

    name: str
    better: Direction | None
    digits: int
    values: Mapping[str, ScoreValue]

    def ranks(self, methods: Iterable[str]) -> dict[str, float]:
        """Return the ranks of the methods with a value: 1 is best, ties share a mean rank. Statistics have none."""
        ranked = [method for method in methods if method in self.values]
        if self.better is None or not ranked:
            return {}
        sign = -1 if self.better == "higher" else 1
        ranks = mean_ranks([sign * self.values[method].mean for method in ranked])
        return dict(zip(ranked, map(float, ranks), strict=True))

    @property
    def best(self) -> frozenset[str]:
        """The best method, and those whose interval reaches its mean; without controls."""
        values = {method: value for method, value in self.values.items() if not is_control(method)}
        if self.better is None or not values:
            return frozenset()
        sign = -1 if self.better == "higher" else 1

        def best_end(value: ScoreValue) -> float:
            return min(sign * end for end in (value.mean, value.low, value.high) if end is not None)

        best_mean = min(sign * value.mean for value in values.values())
        return frozenset(method for method, value in values.items() if best_end(value) <= best_mean)


@dataclass(frozen=True)
class ScoreGroup:
    """Scores of one kind.

    Attributes:
        name: title of the group.
        note: one sentence about the scores.
        ranks: True if the scores rank methods; sanity checks and statistics do not.
        scores: columns of the group.
    """

    name: str
    note: str
    ranks: bool
    scores: tuple[ScoreColumn, ...]

    @property
    def notes(self) -> dict[str, list[str]]:
        """Methods by the caveat of one of their scores."""
        methods_by_note: dict[str, list[str]] = {}
        for score in self.scores:
            for method, value in score.values.items():
                if value.note is not None and method not in methods_by_note.setdefault(value.note, []):
                    methods_by_note[value.note].append(method)
        return methods_by_note


def collect_scores(tables: AuditTables) -> list[ScoreGroup]:
    """Return all groups of scores; groups and scores without values are left out."""
    images = max(tables.methods["images"].to_pylist(), default=0)
    audited = frozenset(tables.methods["method"].to_pylist())
    groups = [_localization_group(name, table, audited) for name, table in tables.localization.items()]
    for name, table, ranks, note in (
        ("Faithfulness", tables.faithfulness, True, "does a map show what the network uses"),
        ("Sanity", tables.sanity, False, "does a map depend on weights and class at all; this ranks nothing"),
    ):
        if table is not None:
            groups.append(ScoreGroup(name, f"{note} ({_sample_note(table, images)})", ranks, _metric_columns(table)))
    groups.append(_statistics_group(tables.methods))
    return [group for group in groups if group.scores]


def select_ranking_scores(groups: Sequence[ScoreGroup]) -> tuple[ScoreColumn, ...]:
    """Return the scores that methods are ordered by.

    These are metrics of the change of the network's output when pixels are removed, the strongest evidence. Without any
    of them it is localization, and without that all scores that rank. Parts of ADCC and sensitivity are no evidence by
    themselves: a constant map has the best of both.
    """
    scores = [(group.name, score) for group in groups if group.ranks for score in group.scores]
    causal = tuple(score for _, score in scores if score.name in _CAUSAL or score.name.startswith("noise_"))
    localization = tuple(score for name, score in scores if name == LOCALIZATION)
    return causal or localization or tuple(score for _, score in scores)


def order_methods(methods: Sequence[str], scores: Sequence[ScoreColumn]) -> list[str]:
    """Sort methods by mean rank, best first, controls last; without ranks the order is kept.

    Args:
        methods: names of methods.
        scores: scores that rank them.
    """
    ranks_by_score = [score.ranks(methods) for score in scores]

    def sort_key(method: str) -> tuple[bool, float]:
        ranks = [score_ranks[method] for score_ranks in ranks_by_score if method in score_ranks]
        return is_control(method), sum(ranks) / len(ranks) if ranks else float("inf")

    return sorted(methods, key=sort_key)


def group_methods(group: ScoreGroup, methods: Sequence[str]) -> list[str]:
    """Return the methods that have any score of a group.

    Args:
        group: group of scores.
        methods: names of methods, in whose order they come; further methods of the group come last.
    """
    names = {method: None for score in group.scores for method in score.values}
    return [method for method in methods if method in names] + [name for name in names if name not in methods]


def count_images(table: pa.Table) -> int:
    """Return the number of images in ``schemas.metrics.METRIC_SUMMARY``."""
    return max(table["images"].to_pylist(), default=0)


def _localization_group(truth: str, table: pa.Table, audited: frozenset[str]) -> ScoreGroup:
    """Return the scores of the audited methods and of controls; the atlas may have scores of further methods."""
    rows = [row for row in table.to_pylist() if row["method"] in audited or is_control(row["method"])]
    scores = []
    for name, title in _LOCALIZATION_TITLES.items():
        values = {
            row["method"]: ScoreValue(row[name], *((row["interval"] or {}).get(name) or (None, None)))
            for row in rows
            if row[name] is not None
        }
        if values:
            scores.append(ScoreColumn(title, "higher", 1, values))
    note = f"against the truth «{truth}», in % ({_count_note(rows[0]['images'] if rows else 0)})"
    return ScoreGroup(LOCALIZATION, note, True, tuple(scores))


def _sample_note(table: pa.Table, images: int) -> str:
    count = count_images(table)
    return _count_note(count) + (", sampled at random" if count < images and count >= MIN_IMAGES else "")


def _count_note(count: int) -> str:
    warning = ": too few for an interval to be trusted" if count < MIN_IMAGES else ""
    return f"{count:,} {'image' if count == 1 else 'images'}{warning}"


def _metric_columns(table: pa.Table) -> tuple[ScoreColumn, ...]:
    rows_by_metric: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        rows_by_metric.setdefault(row["metric"], []).append(row)
    columns = [
        ScoreColumn(
            metric,
            rows[0]["better"],
            3,
            {
                row["method"]: ScoreValue(row["mean"], row["low"], row["high"], row["note"])
                for row in rows
                if row["mean"] is not None
            },
        )
        for metric, rows in rows_by_metric.items()
    ]
    return tuple(column for column in columns if column.values)


def _statistics_group(methods: pa.Table) -> ScoreGroup:
    rows = methods.filter(pc.is_null(methods["class"])).to_pylist()
    columns = [
        ScoreColumn(name, None, 3, {row["method"]: ScoreValue(row[name]) for row in rows if row[name] is not None})
        for name in _SHOWN_STATISTICS
    ]
    note = "means over all images; they describe maps, and are neither good nor bad"
    return ScoreGroup("Map statistics", note, False, tuple(column for column in columns if column.values))
