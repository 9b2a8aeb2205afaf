"""Data on classes in the report: suspicious classes, and statistics, mean maps and clusters of each class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.audit.report.js_encoding import stretch_to_uint8, to_base64
from pipeline.audit.report.load_tables import AuditTables
from pipeline.audit.shortcuts import select_alarms
from schemas.audit_tables import MAP_STATISTICS
from schemas.scores import is_control

MAX_SHOWN = 12
"""Largest number of classes with an alarm on the overview."""
_SHORTCUT_COLUMNS = ("rank", "excess", "y", "x", "maps")
_SIDE = 0.25
"""Share of the grid at each side that is called left, right, upper or lower."""

Row = dict[str, Any]


@dataclass(frozen=True)
class MethodEvidence:
    """Evidence of one method for a shortcut of a class.

    Attributes:
        row: row of ``schemas.audit_tables.SHORTCUTS``.
        cluster: row of ``schemas.audit_tables.CLUSTERS`` in which the cell is an outlier most often.
    """

    row: Row
    cluster: Row


@dataclass(frozen=True)
class SuspiciousClass:
    """A class with the evidence for a shortcut.

    Attributes:
        class_id: the class.
        evidence: of the methods that raise an alarm, strongest first; without an alarm, of the method nearest to one.
        alarms: number of methods that raise an alarm together; see ``pipeline.audit.shortcuts.select_alarms``.
        methods: number of methods.
    """

    class_id: int
    evidence: tuple[MethodEvidence, ...]
    alarms: int
    methods: int


def find_suspicious_classes(tables: AuditTables) -> list[SuspiciousClass]:
    """Return all classes, most suspicious first, in the order of ``pipeline.audit.shortcuts.rank_classes``."""
    clusters: dict[tuple[str, int], Row] = {}
    for row in tables.clusters.to_pylist():
        key = row["method"], row["class"]
        if key not in clusters or row["outlier_share"] > clusters[key]["outlier_share"]:
            clusters[key] = row
    is_method = pa.array([not is_control(method) for method in tables.shortcuts["method"].to_pylist()], pa.bool_())
    classes = []
    for class_id, rows in group_by_class(tables.shortcuts.filter(is_method)).items():
        rows.sort(key=lambda row: (-row["excess"], row["method"]))
        alarming = select_alarms(rows)
        evidence = tuple(MethodEvidence(row, clusters[row["method"], class_id]) for row in alarming or rows[:1])
        classes.append(SuspiciousClass(class_id, evidence, len(alarming), len(rows)))
    return sorted(classes, key=lambda item: (-item.alarms, -item.evidence[0].row["excess"], item.class_id))


def overall_statistics(tables: AuditTables, methods: Sequence[str]) -> list[list[float | None]]:
    """Return means over all classes, for each method; None where undefined.

    Args:
        tables: tables of the audit.
        methods: names of methods.
    """
    rows = tables.methods.filter(pc.is_null(tables.methods["class"])).to_pylist()
    by_method = {row["method"]: [row[name] for name in MAP_STATISTICS] for row in rows}
    return [by_method.get(method, [None] * len(MAP_STATISTICS)) for method in methods]


def iter_class_data(tables: AuditTables, methods: Sequence[str], grid: tuple[int, int]) -> Iterator[tuple[int, Row]]:
    """Yield each class that has images, by class id, with the data of ``data/classes/<class id>.js``.

    The data are ``images``, ``correct`` (share; null without labels), and for each method, by its index: ``images``,
    ``degenerate``, ``statistics``; where it has valid maps also ``mean`` (map), ``shortcut`` (columns of
    ``schemas.audit_tables.SHORTCUTS`` and the place in words) and ``clusters``, each with ``maps``, ``central_row``,
    ``outlier_share``, ``prototype``. Controls raise no alarm here, since they do not count for suspicious classes. Maps
    are uint8 [h, w], from their minimum to their maximum, as base64.

    Args:
        tables: tables of the audit.
        methods: names of methods in the report.
        grid: rows and columns of the patch grid.
    """
    sources = tables.methods, tables.shortcuts, tables.clusters
    rows_by_class, shortcuts, clusters = (group_by_class(table) for table in sources)
    for class_id in sorted(rows_by_class):
        rows = rows_by_class[class_id]
        data = {
            str(methods.index(row["method"])): _method_data(
                row,
                next((item for item in shortcuts.get(class_id, ()) if item["method"] == row["method"]), None),
                [item for item in clusters.get(class_id, ()) if item["method"] == row["method"]],
                grid,
            )
            for row in rows
            if row["method"] in methods
        }
        yield class_id, {"images": rows[0]["images"], "correct": rows[0]["correct"], "methods": data}


def mean_map(clusters: Sequence[Row], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return the mean of the normalized maps of a class, from the prototypes of its clusters.

    Args:
        clusters: rows of ``schemas.audit_tables.CLUSTERS`` of the class; each map is in one of them.
        grid: height and width of the map.
    """
    weights = [cluster["maps"] for cluster in clusters]
    mean: NDArray[np.float64] = np.average([cluster["prototype"] for cluster in clusters], 0, weights)
    return mean.reshape(grid)


def encode_map(values: Any, grid: tuple[int, int]) -> str:
    """Return a map for the page: base64 of uint8 [h, w], from its minimum to its maximum.

    Args:
        values: the map, row by row.
        grid: height and width of the map.
    """
    return to_base64(stretch_to_uint8(np.asarray(values, np.float64).reshape(grid)))


def describe_cell(y: int, x: int, grid: tuple[int, int]) -> str:
    """Return the place of a cell in words, as ``lower left (row 7, column 0 of 8 × 8)``.

    Args:
        y: row of the cell, from 0.
        x: column of the cell, from 0.
        grid: rows and columns of the patch grid.
    """
    horizontal = _side(x, grid[1], ("left", "right"))
    vertical = _side(y, grid[0], ("upper", "lower"))
    place = " ".join(filter(None, (vertical, horizontal))) or "middle"
    return f"{place} (row {y}, column {x} of {grid[0]} × {grid[1]})"


def _side(cell: int, cells: int, names: tuple[str, str]) -> str:
    position = (cell + 0.5) / cells
    return names[0] if position < _SIDE else names[1] if position > 1 - _SIDE else ""


def group_by_class(table: pa.Table) -> dict[int, list[Row]]:
    """Return the rows of a table by class, without those that are of no class."""
    rows_by_class: dict[int, list[Row]] = {}
    for row in table.filter(pc.is_valid(table["class"])).to_pylist():
        rows_by_class.setdefault(row["class"], []).append(row)
    return rows_by_class


def _method_data(row: Row, shortcut: Row | None, clusters: list[Row], grid: tuple[int, int]) -> Row:
    data: Row = {name: row[name] for name in ("images", "degenerate")}
    data["statistics"] = [row[name] for name in MAP_STATISTICS]
    if shortcut is None or not clusters:
        return data
    alarm = shortcut["alarm"] and not is_control(row["method"])
    place = describe_cell(shortcut["y"], shortcut["x"], grid)
    return data | {
        "shortcut": {name: shortcut[name] for name in _SHORTCUT_COLUMNS} | {"alarm": alarm, "place": place},
        "mean": encode_map(mean_map(clusters, grid), grid),
        "clusters": [
            {name: cluster[name] for name in ("maps", "central_row", "outlier_share")}
            | {"prototype": encode_map(cluster["prototype"], grid)}
            for cluster in sorted(clusters, key=lambda cluster: cluster["cluster"])
        ],
    }
