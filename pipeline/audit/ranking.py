"""Which classes are suspicious by all methods together?"""

from collections import defaultdict
from typing import Any

import pyarrow as pa

from schemas.audit_tables import SUSPICIOUS_CLASSES
from schemas.scores import is_control


def rank_classes(table: pa.Table) -> pa.Table:
    """Rank classes by how many methods raise an alarm, and among equals by the highest ``locked`` of any method.

    Not by mean ranks: most methods rank classes without a shortcut by chance, and one that sees a shortcut is enough.
    Controls have no say: ``edges`` sees a mark in the pictures, whether the network looks at it or not.

    Args:
        table: ``schemas.audit_tables.SHORTCUTS``, of one target.

    Returns:
        ``schemas.audit_tables.SUSPICIOUS_CLASSES``.
    """
    by_class: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_pylist():
        if not is_control(row["method"]):
            by_class[row["class"]].append(row)
    classes = [_together(found) for found in by_class.values()]
    classes.sort(key=lambda row: (-row["alarms"], -row["excess"], row["class"]))
    return pa.Table.from_pylist([row | {"rank": rank} for rank, row in enumerate(classes, 1)], SUSPICIOUS_CLASSES)


def _together(found: list[dict[str, Any]]) -> dict[str, Any]:
    clearest, ranks = max(found, key=lambda row: row["excess"]), [row["rank"] for row in found]
    return {name: clearest[name] for name in ("class", "excess", "method", "y", "x")} | {
        "methods": len(found),
        "alarms": sum(row["alarm"] for row in found),
        "best_rank": min(ranks),
        "mean_rank": sum(ranks) / len(ranks),
    }
