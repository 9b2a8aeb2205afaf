"""``index.html``: what stands still. Every text from data goes through Jinja's escaping."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.audit.fixed_location_test import ALARM_THRESHOLD
from pipeline.audit.report.chart_layout import layout_dot_plot, layout_rank_plot
from pipeline.audit.report.classes import encode_map
from pipeline.audit.report.js_chunks import ImageColumns
from pipeline.audit.report.load_tables import AuditTables
from pipeline.audit.report.places import describe_cell
from pipeline.audit.report.reproducibility import summarize_reproducibility
from pipeline.audit.report.score_view import (
    LOCALIZING,
    collect_scores,
    count_images,
    describe_score,
    group_methods,
    order_methods,
    select_ranking_scores,
)
from pipeline.audit.report.suspects import NEAREST, SHOWN, find_suspicious_classes
from pipeline.store import Atlas
from schemas.audit_tables import AGREEMENT_METRICS, MAP_STATISTICS
from schemas.samples import SampleStatus
from schemas.scores import is_control

_ROWS = 60
"""Of a table that is shown as it is, at most."""

_MEASURES = {
    "spearman": "Spearman",
    "pearson": "Pearson",
    "top5": "top 5 %",
    "top10": "top 10 %",
    "top20": "top 20 %",
    "iou": "IoU",
}
_CANVAS = 192
"""Longest side of a drawn map, in pixels."""


@dataclass(frozen=True)
class Sheet:
    """A table of the audit as it is.

    Attributes:
        file: where all of it stands.
        left_out: rows that are not shown.
    """

    title: str
    file: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left_out: int


@dataclass(frozen=True)
class Matrix:
    """How alike the maps of each two methods are.

    Attributes:
        meaning: of the measure, one phrase.
        values: by the two methods; None where no image has one.
        alike: of methods that are no controls the two most alike, after their value; None where there are no two.
    """

    measure: str
    title: str
    meaning: str
    values: Mapping[frozenset[str], float | None]
    alike: tuple[float, str, str] | None


def render_page(
    atlas: Atlas,
    audited: AuditTables,
    methods: Sequence[str],
    names: Sequence[str],
    columns: ImageColumns,
    pictures: bool,
) -> bytes:
    """The page, as UTF-8.

    Args:
        methods: that the gallery shows.
        names: of the classes, by index; empty: they are numbers.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.audit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"told": format_value, "heat": color_class, "meaning": describe_score}
    environment.tests["control"] = is_control
    environment.globals["pair"] = lambda one, other: frozenset((one, other))
    environment.globals["where"] = lambda sign: describe_cell(sign["y"], sign["x"], atlas.run.model.grid)
    environment.globals["class_name"] = lambda index: names[index] if names else f"class {index}"
    kinds = collect_scores(audited)
    by = select_ranking_scores(kinds)
    order = order_methods(methods, by)
    all_suspects = find_suspicious_classes(audited)
    alarming = [each for each in all_suspects if each.alarms]
    context = {
        "run": atlas.run,
        "about": audited.about,
        "model": _publication(atlas.run.model.name),
        "right": _right(atlas),
        "counts": _counts(atlas),
        "methods": order,
        "ranking": by,
        "drawn": _drawn(audited),
        "groups": [(kind, group_methods(kind, order)) for kind in kinds],
        "dots": [
            (
                kind,
                group_methods(kind, order),
                [layout_dot_plot(score, group_methods(kind, order)) for score in kind.scores],
            )
            for kind in kinds
            if kind.ranks
        ],
        "ranks": layout_rank_plot(
            [score for kind in kinds for score in kind.scores if score in by or kind.name == LOCALIZING], order
        ),
        "agreement": _agreement(audited),
        "suspects": alarming[:SHOWN] or all_suspects[:NEAREST],
        "alarming": alarming,
        "threshold": ALARM_THRESHOLD,
        "packed": lambda values: encode_map(values, atlas.run.model.grid),
        "shown": frozenset(columns.images["row"].astype(np.int64).tolist()),
        "classes": _classes(audited, {each.class_index: each.alarms for each in all_suspects}),
        "numbers": MAP_STATISTICS,
        "sheets": _sheets(audited),
        "again": None
        if audited.reproduced is None
        else summarize_reproducibility(audited.reproduced, audited.about.target),
        "canvas": canvas_size(atlas.run.model.input_size),
        "images": len(columns.keys),
        "pictures": pictures,
    }
    return environment.get_template("index.html").render(context).encode()


def canvas_size(frame: tuple[int, int]) -> tuple[int, int]:
    """Width and height in which maps are drawn, of a network's input of this height and width."""
    scale = _CANVAS / max(frame)
    return max(1, round(frame[1] * scale)), max(1, round(frame[0] * scale))


def format_value(value: Any, digits: int = 3) -> str:
    """A value as a cell of a table."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # without the sign of a zero
    return f"{value:,}" if isinstance(value, int) else str(value)


def color_class(value: float | None) -> str:
    """Name of the shade of a correlation in [−1, 1]: ``p0`` to ``p10``, below 0 ``n1`` to ``n10``."""
    if value is None:
        return "none"
    tenths = round(10 * value)
    return f"n{-tenths}" if tenths < 0 else f"p{tenths}"


def _counts(atlas: Atlas) -> dict[str, Any]:
    statuses = atlas.statuses()
    return {
        "shards": len(atlas.run.shards),
        "finished": len(atlas.committed),
        "planned": atlas.run.samples,
        "mapped": statuses[SampleStatus.OK],
        "failed": sorted((status, count) for status, count in statuses.items() if status != SampleStatus.OK),
    }


def _drawn(audited: AuditTables) -> list[tuple[str, int]]:
    """Of how many images what is that is too dear for all of them."""
    kinds = (("faithfulness", audited.faithfulness), ("sanity checks", audited.sanity))
    found = [(name, count_images(table)) for name, table in kinds if table is not None]
    if audited.reproduced is not None:
        found.append(("computing maps again", max(audited.reproduced["recomputed"].to_pylist(), default=0)))
    return found


def _publication(model: str) -> str:
    """What others call a network; empty of one that was read from a folder, whose name says nothing to them."""
    return "" if model.startswith("local-dir:") else PurePath(model).name


def _right(atlas: Atlas) -> dict[str, int] | None:
    """How many images have a label, and how many of them another prediction; None where none has one."""
    samples = atlas.samples(["status", "label", "prediction"])
    samples = samples.filter(pc.equal(samples["status"].cast(pa.string()), SampleStatus.OK))
    labelled = samples.filter(pc.is_valid(samples["label"]))
    wrong = pc.sum(pc.not_equal(labelled["label"], labelled["prediction"])).as_py()
    return {"labelled": len(labelled), "wrong": wrong} if len(labelled) else None


def _agreement(audited: AuditTables) -> list[Matrix]:
    """How alike maps of all classes are, by each measure; nothing where there is one method."""
    rows = audited.agreement.filter(pc.is_null(audited.agreement["class"])).to_pylist()
    found = []
    for measure, title in _MEASURES.items():
        values = {frozenset((row["first"], row["second"])): row[measure] for row in rows}
        own = [
            (row[measure], row["first"], row["second"])
            for row in rows
            if row[measure] is not None and not any(is_control(row[name]) for name in ("first", "second"))
        ]
        found.append(Matrix(measure, title, AGREEMENT_METRICS[measure], values, max(own, default=None)))
    return found if rows else []


def _classes(audited: AuditTables, alarms: Mapping[int, int]) -> list[dict[str, Any]]:
    """Each class that has images, most suspicious first."""
    by_class: dict[int, list[dict[str, Any]]] = {}
    for row in audited.methods.filter(pc.is_valid(audited.methods["class"])).to_pylist():
        by_class.setdefault(row["class"], []).append(row)
    found = []
    for index, rows in by_class.items():
        known = [row["agreement"] for row in rows if row["agreement"] is not None and not is_control(row["method"])]
        agreement = sum(known) / len(known) if known else None
        counts = {name: rows[0][name] for name in ("images", "correct")}
        found.append({"index": index, "alarms": alarms.get(index, 0), "agreement": agreement} | counts)
    place = {index: number for number, index in enumerate(alarms)}
    return sorted(found, key=lambda each: place.get(each["index"], len(place)))


def _sheets(audited: AuditTables) -> list[Sheet]:
    found = []
    if audited.completeness is not None:
        found.append(_sheet("Completeness", "completeness.parquet", _over_shards(audited.completeness)))
    return found


def _over_shards(table: pa.Table) -> pa.Table:
    """Counts of all shards together."""
    by = ["kind", "method", "status", "reason"]
    texts = [table[name].cast(pa.string()) for name in by]
    counts = pa.table([*texts, table["count"]], names=[*by, "count"])
    return counts.group_by(by, use_threads=False).aggregate([("count", "sum")]).rename_columns([*by, "count"])


def _sheet(title: str, file: str, table: pa.Table) -> Sheet:
    rows = [[format_value(value, 6) for value in row.values()] for row in table.slice(0, _ROWS).to_pylist()]
    return Sheet(title, file, table.column_names, rows, max(0, len(table) - _ROWS))
