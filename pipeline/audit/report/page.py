"""Render ``index.html``: the static part of the report. Jinja escapes all text that comes from data."""

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
from pipeline.audit.report.classes import (
    MAX_SHOWN,
    describe_cell,
    encode_map,
    find_suspicious_classes,
    group_by_class,
)
from pipeline.audit.report.gallery_data import ImageColumns
from pipeline.audit.report.load_tables import AuditTables, summarize_reproducibility
from pipeline.audit.report.score_view import (
    LOCALIZATION,
    collect_scores,
    count_images,
    describe_score,
    group_methods,
    order_methods,
    select_ranking_scores,
)
from pipeline.store import MapReader
from pipeline.store.label_accuracy import measure_label_accuracy
from schemas.audit_tables import AGREEMENT_METRICS, MAP_STATISTICS
from schemas.samples import SampleStatus
from schemas.scores import is_control
from schemas.token_norms import TokenNorms

_MAX_ROWS = 60
"""Largest number of rows of the table of completeness that are shown."""

_AGREEMENT_TITLES = {
    "spearman": "Spearman",
    "pearson": "Pearson",
    "top5": "top 5 %",
    "top10": "top 10 %",
    "top20": "top 20 %",
    "iou": "IoU",
}
_CANVAS = 192
"""Longest side of a map on the page, in pixels."""


@dataclass(frozen=True)
class AgreementMatrix:
    """Agreement of all pairs of methods by one metric.

    Attributes:
        metric: name of the metric.
        title: title of the metric.
        description: description of the metric.
        values: agreement by pair of methods; None where it is undefined.
        closest: highest agreement of two methods that are no controls, and their names; None without such a pair.
    """

    metric: str
    title: str
    description: str
    values: Mapping[frozenset[str], float | None]
    closest: tuple[float, str, str] | None


def render_page(
    atlas: MapReader,
    tables: AuditTables,
    methods: Sequence[str],
    names: Sequence[str],
    columns: ImageColumns,
    thumbnails: bool,
) -> bytes:
    """Render the page as UTF-8.

    Args:
        atlas: the audited atlas.
        tables: tables of the audit.
        methods: methods in the gallery.
        names: names of the classes by class id; empty shows numbers.
        columns: images in the gallery.
        thumbnails: the report shows small copies of the images.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.audit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    grid = atlas.run.model.grid
    environment.filters |= {"format_value": format_value, "color_class": color_class, "describe": describe_score}
    environment.tests["control"] = is_control
    environment.globals["pair"] = lambda first, second: frozenset((first, second))
    environment.globals["describe_cell"] = lambda row: describe_cell(row["y"], row["x"], grid)
    environment.globals["class_name"] = lambda class_id: names[class_id] if names else f"class {class_id}"
    groups = collect_scores(tables)
    ranking = select_ranking_scores(groups)
    order = order_methods(methods, ranking)
    groups_with_methods = [(group, group_methods(group, order)) for group in groups]
    all_classes = find_suspicious_classes(tables)
    alarming = [item for item in all_classes if item.alarms]
    context = {
        "run": atlas.run,
        "about": tables.about,
        "model": _model_title(atlas.run.model.name),
        "norms": _describe_norms(atlas),
        "accuracy": measure_label_accuracy(atlas),
        "wrong": _count_wrong(atlas),
        "counts": _count_samples(atlas),
        "methods": order,
        "ranking": ranking,
        "trust": tables.ranking,
        "sample_sizes": _sample_sizes(tables),
        "groups": groups_with_methods,
        "dot_plots": [
            (group, names, [layout_dot_plot(score, names) for score in group.scores])
            for group, names in groups_with_methods
            if group.ranks
        ],
        "rank_plot": layout_rank_plot(
            [score for group in groups for score in group.scores if score in ranking or group.name == LOCALIZATION],
            order,
        ),
        "agreement": _agreement_matrices(tables),
        "max_suspects": MAX_SHOWN,
        "alarming": alarming,
        "threshold": ALARM_THRESHOLD,
        "encode_map": lambda values: encode_map(values, grid),
        "gallery_rows": frozenset(columns.images["row"].astype(np.int64).tolist()),
        "classes": _class_rows(tables, {item.class_id: item.alarms for item in all_classes}),
        "statistics": list(MAP_STATISTICS),
        "completeness": [] if tables.completeness is None else _sum_over_shards(tables.completeness),
        "max_rows": _MAX_ROWS,
        "recomputed": summarize_reproducibility(tables.reproducibility, tables.about.target),
        "canvas": canvas_size(atlas.run.model.input_size),
        "images": len(columns.keys),
        "thumbnails": thumbnails,
    }
    return environment.get_template("index.html").render(context).encode()


def _describe_norms(atlas: MapReader) -> str | None:
    """Return what the run has measured of the norms of tokens, in one line; None where it has nothing."""
    joined = TokenNorms.joined(commit.token_norms for commit in atlas.records() if commit.token_norms is not None)
    return None if joined is None else joined.describe(atlas.run.model.readout)


def canvas_size(input_size: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of a map on the page, for the height and width of the network's input."""
    scale = _CANVAS / max(input_size)
    return max(1, round(input_size[1] * scale)), max(1, round(input_size[0] * scale))


def format_value(value: Any, digits: int = 3) -> str:
    """Return a value as text for the cell of a table.

    Args:
        value: any value.
        digits: digits after the decimal point of a float.
    """
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0 removes the sign of a zero
    return f"{value:,}" if isinstance(value, int) else str(value)


def color_class(value: float | None) -> str:
    """Return the CSS class of the shade of a correlation: ``p0`` to ``p10``, below 0 ``n1`` to ``n10``, or ``none``."""
    if value is None:
        return "none"
    tenths = round(10 * value)
    return f"n{-tenths}" if tenths < 0 else f"p{tenths}"


def _count_samples(atlas: MapReader) -> dict[str, Any]:
    statuses = atlas.statuses()
    return {
        "shards": len(atlas.run.shards),
        "finished": len(atlas.committed),
        "planned": atlas.run.samples,
        "with_maps": statuses[SampleStatus.OK],
        "failed": sorted((status, count) for status, count in statuses.items() if status != SampleStatus.OK),
    }


def _sample_sizes(tables: AuditTables) -> list[tuple[str, int]]:
    """Return the numbers of images of what is computed for a sample only."""
    suites = (("faithfulness", tables.faithfulness), ("sanity checks", tables.sanity))
    sizes = [(name, count_images(table)) for name, table in suites if table is not None]
    if tables.reproducibility is not None:
        sizes.append(("recomputation of maps", max(tables.reproducibility["recomputed"].to_pylist(), default=0)))
    return sizes


def _model_title(name: str) -> str:
    """Return the name of a network; empty for a local folder, whose name means nothing to others."""
    return "" if name.startswith("local-dir:") else PurePath(name).name


def _count_wrong(atlas: MapReader) -> int:
    """Return the number of images whose only label is not the prediction, as the gallery filters them."""
    samples = atlas.samples_with_maps(["label", "prediction"])
    return pc.sum(pc.not_equal(samples["label"], samples["prediction"])).as_py() or 0


def _agreement_matrices(tables: AuditTables) -> list[AgreementMatrix]:
    """Return the agreement over all classes, by each metric; empty for a single method."""
    rows = tables.agreement.filter(pc.is_null(tables.agreement["class"])).to_pylist()
    matrices = []
    for metric, title in _AGREEMENT_TITLES.items():
        values = {frozenset((row["first"], row["second"])): row[metric] for row in rows}
        pairs = [
            (row[metric], row["first"], row["second"])
            for row in rows
            if row[metric] is not None and not any(is_control(row[name]) for name in ("first", "second"))
        ]
        matrices.append(AgreementMatrix(metric, title, AGREEMENT_METRICS[metric], values, max(pairs, default=None)))
    return matrices if rows else []


def _class_rows(tables: AuditTables, alarms: Mapping[int, int]) -> list[dict[str, Any]]:
    """Return each class that has images, most suspicious first."""
    classes = []
    for class_id, rows in group_by_class(tables.methods).items():
        values = [row["agreement"] for row in rows if row["agreement"] is not None and not is_control(row["method"])]
        classes.append(
            {
                "class_id": class_id,
                "alarms": alarms.get(class_id, 0),
                "agreement": sum(values) / len(values) if values else None,
                "images": rows[0]["images"],
                "correct": rows[0]["correct"],
            }
        )
    place = {class_id: number for number, class_id in enumerate(alarms)}
    return sorted(classes, key=lambda row: place.get(row["class_id"], len(place)))


def _sum_over_shards(table: pa.Table) -> list[dict[str, Any]]:
    keys = ["kind", "method", "status", "reason"]
    texts = [table[name].cast(pa.string()) for name in keys]
    counts = pa.table([*texts, table["count"]], names=[*keys, "count"])
    sums = counts.group_by(keys, use_threads=False).aggregate([("count", "sum")])
    return sums.rename_columns([*keys, "count"]).to_pylist()
