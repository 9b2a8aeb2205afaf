"""Which classes are suspicious, over all methods: what a reader should look at first."""

from dataclasses import dataclass
from typing import Any

from pipeline.audit.report.load_tables import AuditTables
from schemas.scores import is_control

SHOWN = 12
"""Classes that raise an alarm and are drawn on the overview, at most."""
NEAREST = 3
"""Classes that are shown where none raises an alarm."""


@dataclass(frozen=True)
class ShortcutSign:
    """What one method says of a class.

    Attributes:
        row: of ``schemas.audit_tables.SHORTCUTS``.
        cluster: of the class's clusters the one out of which the cell stands most often, as a row of ``CLUSTERS``.
    """

    row: dict[str, Any]
    cluster: dict[str, Any]


@dataclass(frozen=True)
class SuspiciousClass:
    """A class.

    Attributes:
        signs: of the methods that raise an alarm, strongest first; of a class without an alarm, of the method that
            comes nearest to one.
        alarms: how many methods raise one, of how many.
    """

    class_index: int
    signs: tuple[ShortcutSign, ...]
    alarms: int
    methods: int


def find_suspicious_classes(audited: AuditTables) -> list[SuspiciousClass]:
    """All classes, most suspicious first, in the order of ``pipeline.audit.shortcuts.suspicious``."""
    clusters: dict[tuple[str, int], dict[str, Any]] = {}
    for row in audited.clusters.to_pylist():
        key = row["method"], row["class"]
        if key not in clusters or row["outlier_share"] > clusters[key]["outlier_share"]:
            clusters[key] = row
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in audited.shortcuts.to_pylist():
        if not is_control(row["method"]):
            rows.setdefault(row["class"], []).append(row)
    found = []
    for index, about in rows.items():
        about.sort(key=lambda row: (-row["excess"], row["method"]))
        alarming = [row for row in about if row["alarm"]]
        signs = tuple(ShortcutSign(row, clusters[row["method"], index]) for row in alarming or about[:1])
        found.append(SuspiciousClass(index, signs, len(alarming), len(about)))
    return sorted(found, key=lambda each: (-each.alarms, -each.signs[0].row["excess"], each.class_index))
