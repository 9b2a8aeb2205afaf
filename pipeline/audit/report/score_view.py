"""Scores of all kinds in one form: of which method, how much, how sure, and which way is better."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import rankdata

from pipeline.audit.report.load_tables import AuditTables
from schemas.audit_tables import MAP_STATISTICS
from schemas.metrics import METRIC_DESCRIPTIONS
from schemas.scores import SCORES, is_control

Better = Literal["higher", "lower"]
LOCALIZING = "Localization"
FEW = 30
"""Images, below which a bootstrap interval says little."""

_LOCALIZATION = {
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
_DESCRIBED = ("agreement", "entropy", "effective_area", "border_mass", "corner_mass", "object_mass")


def describe_score(name: str) -> str:
    """Return the description of a score, a metric or a statistic by its title; empty for others."""
    keys = {title: key for key, title in _LOCALIZATION.items()}
    descriptions = {**METRIC_DESCRIPTIONS, **MAP_STATISTICS, **{title: SCORES[key] for title, key in keys.items()}}
    return descriptions.get(name, "").replace("``", "")


@dataclass(frozen=True)
class ScoreValue:
    """A score of a method, its interval of 95 % where one is known, and what must be known to read it."""

    mean: float
    low: float | None = None
    high: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class ScoreColumn:
    """One column.

    Attributes:
        better: None of a number that only describes.
        digits: behind the point.
        values: by method, of those that have one.
    """

    name: str
    better: Better | None
    digits: int
    values: Mapping[str, ScoreValue]

    def ranks(self, methods: Iterable[str]) -> dict[str, float]:
        """Of these methods those that have a value: 1 is best, equal ones share a mean rank. Nothing that describes."""
        known = [method for method in methods if method in self.values]
        if self.better is None or not known:
            return {}
        sign = -1 if self.better == "higher" else 1
        places = rankdata([sign * self.values[method].mean for method in known])
        return dict(zip(known, map(float, places), strict=True))

    @property
    def best(self) -> frozenset[str]:
        """Of the methods that are no controls: the best, and those whose interval reaches its mean."""
        own = {method: value for method, value in self.values.items() if not is_control(method)}
        if self.better is None or not own:
            return frozenset()
        sign = -1 if self.better == "higher" else 1

        def reach(value: ScoreValue) -> float:
            return min(sign * end for end in (value.mean, value.low, value.high) if end is not None)

        top = min(sign * value.mean for value in own.values())
        return frozenset(method for method, value in own.items() if reach(value) <= top)


@dataclass(frozen=True)
class ScoreGroup:
    """Scores of one kind.

    Attributes:
        ranks: whether they rank methods; sanity checks and descriptions do not.
        note: one sentence on what they are of.
    """

    name: str
    note: str
    ranks: bool
    scores: tuple[ScoreColumn, ...]

    @property
    def notes(self) -> dict[str, list[str]]:
        """Methods by what must be known of one of their scores."""
        found: dict[str, list[str]] = {}
        for score in self.scores:
            for method, value in score.values.items():
                if value.note is not None and method not in found.setdefault(value.note, []):
                    found[value.note].append(method)
        return found


def collect_scores(audited: AuditTables) -> list[ScoreGroup]:
    """All scores that there are, kind by kind; a kind or score without any value is left out."""
    mapped = max(audited.methods["images"].to_pylist(), default=0)
    found = [_localization(name, table) for name, table in audited.localization.items()]
    for name, table, ranks, note in (
        ("Faithfulness", audited.faithfulness, True, "whether a map says what the network looks at"),
        ("Sanity", audited.sanity, False, "whether a map depends on weights and class at all, which ranks nothing"),
    ):
        if table is not None:
            found.append(ScoreGroup(name, f"{note} ({_drawn(table, mapped)})", ranks, _summarised(table)))
    found.append(_described(audited.methods))
    return [group for group in found if group.scores]


def select_ranking_scores(kinds: Sequence[ScoreGroup]) -> tuple[ScoreColumn, ...]:
    """The scores by which methods are ordered: what changes in the network's answer as pixels go, best of all evidence.

    Without any of these localization, and without that all that ranks. Parts of ADCC and sensitivity are no evidence by
    themselves: a constant map has the best of both.
    """
    scores = [(kind.name, score) for kind in kinds if kind.ranks for score in kind.scores]
    causal = tuple(score for _, score in scores if score.name in _CAUSAL or score.name.startswith("noise_"))
    localizing = tuple(score for name, score in scores if name == LOCALIZING)
    return causal or localizing or tuple(score for _, score in scores)


def order_methods(methods: Sequence[str], scores: Sequence[ScoreColumn]) -> list[str]:
    """Methods by their mean rank, best first, controls last; as they come where nothing ranks them."""
    found = [score.ranks(methods) for score in scores]

    def place(method: str) -> tuple[bool, float]:
        own = [ranks[method] for ranks in found if method in ranks]
        return is_control(method), sum(own) / len(own) if own else float("inf")

    return sorted(methods, key=place)


def group_methods(kind: ScoreGroup, methods: Sequence[str]) -> list[str]:
    """Methods that have any score of a kind, in their order; then those that only this kind knows."""
    known = {method: None for score in kind.scores for method in score.values}
    return [method for method in methods if method in known] + [method for method in known if method not in methods]


def _localization(truth: str, table: pa.Table) -> ScoreGroup:
    rows = table.to_pylist()
    scores = []
    for name, title in _LOCALIZATION.items():
        values = {
            row["method"]: ScoreValue(row[name], *((row["interval"] or {}).get(name) or (None, None)))
            for row in rows
            if row[name] is not None
        }
        if values:
            scores.append(ScoreColumn(title, "higher", 1, values))
    note = f"against the truth «{truth}», in % ({_images(rows[0]['images'] if rows else 0)})"
    return ScoreGroup(LOCALIZING, note, True, tuple(scores))


def count_images(table: pa.Table) -> int:
    """How many images a table of ``schemas.metrics.SUMMARY`` is of."""
    return max(table["images"].to_pylist(), default=0)


def _drawn(table: pa.Table, mapped: int) -> str:
    number = count_images(table)
    return _images(number) + (", drawn at random" if number < mapped and number >= FEW else "")


def _images(number: int) -> str:
    few = ": too few for an interval to be trusted" if number < FEW else ""
    return f"{number:,} {'image' if number == 1 else 'images'}{few}"


def _summarised(table: pa.Table) -> tuple[ScoreColumn, ...]:
    by_figure: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        by_figure.setdefault(row["metric"], []).append(row)
    scores = [
        ScoreColumn(
            figure,
            rows[0]["better"],
            3,
            {
                row["method"]: ScoreValue(row["mean"], row["low"], row["high"], row["note"])
                for row in rows
                if row["mean"] is not None
            },
        )
        for figure, rows in by_figure.items()
    ]
    return tuple(score for score in scores if score.values)


def _described(methods: pa.Table) -> ScoreGroup:
    rows = methods.filter(pc.is_null(methods["class"])).to_pylist()
    scores = [
        ScoreColumn(name, None, 3, {row["method"]: ScoreValue(row[name]) for row in rows if row[name] is not None})
        for name in _DESCRIBED
    ]
    note = "means over all images: what maps look like, which is neither good nor bad"
    return ScoreGroup("Maps in numbers", note, False, tuple(score for score in scores if score.values))
