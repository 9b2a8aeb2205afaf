"""What the report says of one class: counts, numbers against all classes, mean maps, and clusters with prototypes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.audit.report.js_encoding import stretch_to_uint8, to_base64
from pipeline.audit.report.load_tables import AuditTables
from pipeline.audit.report.places import describe_cell
from schemas.audit_tables import MAP_STATISTICS
from schemas.scores import is_control

_SIGNS = (
    "alarm",
    "rank",
    "excess",
    "y",
    "x",
    "outlier_share",
    "outlier_share_others",
    "high_share",
    "maps",
    "eigengap",
)

Row = dict[str, Any]


def overall_statistics(audited: AuditTables, methods: Sequence[str]) -> list[list[float | None]]:
    """Means over all classes, for each method; null of what is not known."""
    rows = audited.methods.filter(pc.is_null(audited.methods["class"])).to_pylist()
    by_method = {row["method"]: [row[name] for name in MAP_STATISTICS] for row in rows}
    return [by_method.get(method, [None] * len(MAP_STATISTICS)) for method in methods]


def iter_class_data(audited: AuditTables, methods: Sequence[str], grid: tuple[int, int]) -> Iterator[tuple[int, Row]]:
    """Each class that has images, by index, with what ``data/classes/<index>.js`` says of it.

    ``images``, ``correct`` (share, null where no label is known), and for each method of the report, by its place:
    ``images``, ``degenerate``, ``numbers``; where it has maps that say something also ``mean`` (map), what
    ``schemas.audit_tables.SHORTCUTS`` says with the place in words (``where``), and ``clusters``, each with ``maps``,
    ``central`` (row), ``share``, ``prototype``. A control raises no alarm here, since it has no say in which class is
    suspicious (``pipeline.audit.shortcuts``).
    Maps are uint8 [h, w], from their least to their largest value, as base64.
    """
    tables = audited.methods, audited.shortcuts, audited.clusters
    rows, signs, clusters = (_by_class(table) for table in tables)
    for index in sorted(rows):
        by_method = {row["method"]: row for row in rows[index]}
        any_row = rows[index][0]
        told = {
            str(methods.index(name)): _of_method(
                row,
                next((each for each in signs.get(index, ()) if each["method"] == name), None),
                [each for each in clusters.get(index, ()) if each["method"] == name],
                grid,
            )
            for name, row in by_method.items()
            if name in methods
        }
        yield index, {"images": any_row["images"], "correct": any_row["correct"], "methods": told}


def mean_map(clusters: Sequence[Row], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Mean of the normalised maps of a class [h, w], from the means of its clusters, which hold each of them once."""
    weights = [each["maps"] for each in clusters]
    mean: NDArray[np.float64] = np.average([each["prototype"] for each in clusters], 0, weights)
    return mean.reshape(grid)


def encode_map(values: Any, grid: tuple[int, int]) -> str:
    """A map for the page: base64 of uint8 [h, w], stretched over its range."""
    return to_base64(stretch_to_uint8(np.asarray(values, np.float64).reshape(grid)))


def _by_class(table: pa.Table) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in table.filter(pc.is_valid(table["class"])).to_pylist():
        found.setdefault(row["class"], []).append(row)
    return found


def _of_method(row: Row, sign: Row | None, clusters: list[Row], grid: tuple[int, int]) -> Row:
    told: Row = {name: row[name] for name in ("images", "degenerate")} | {
        "numbers": [row[name] for name in MAP_STATISTICS]
    }
    if sign is None or not clusters:
        return told
    alarm = sign["alarm"] and not is_control(row["method"])
    where = describe_cell(sign["y"], sign["x"], grid)
    return told | {
        "sign": {name: sign[name] for name in _SIGNS} | {"alarm": alarm, "where": where},
        "mean": encode_map(mean_map(clusters, grid), grid),
        "clusters": [
            {name: each[name] for name in ("maps", "central_row", "outlier_share")}
            | {"prototype": encode_map(each["prototype"], grid)}
            for each in sorted(clusters, key=lambda each: each["cluster"])
        ],
    }
