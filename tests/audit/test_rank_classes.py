"""What several methods say of a class is put together as anybody would; that it finds a mark is in test_shortcuts."""

import pyarrow as pa
import pytest

from pipeline.audit.shortcuts import rank_classes
from schemas.audit_tables import SHORTCUTS, SUSPICIOUS_CLASSES


def shortcuts_of(rows: list[tuple[str, int, int, bool, float, int]]) -> pa.Table:
    """A table of method, class, rank, alarm, locked and y; the rest is of no matter."""
    names = ("method", "class", "rank", "alarm", "excess", "y")
    rest = dict.fromkeys(SHORTCUTS.names, 0) | {"target": "label", "eigenvalues": []}
    return pa.Table.from_pylist([rest | dict(zip(names, row, strict=True)) for row in rows], SHORTCUTS)


def test_more_alarms_come_first_then_the_highest_limit_then_the_class() -> None:
    found = rank_classes(
        shortcuts_of(
            [
                ("legrad", 7, 1, True, 0.9, 0),
                ("legrad", 2, 2, True, 0.3, 3),
                ("legrad", 5, 3, False, 0.0, 2),
                ("legrad", 4, 4, False, 0.0, 3),
                ("rollout", 2, 1, True, 0.5, 4),
                ("rollout", 4, 2, False, -0.1, 5),
                ("rollout", 5, 3, False, -0.2, 6),
                ("rollout", 7, 4, False, -0.3, 7),
                ("gradcam", 9, 1, False, 0.05, 8),
            ]
        )
    )
    assert found.schema.equals(SUSPICIOUS_CLASSES)
    rows = found.to_pylist()
    assert [row["class"] for row in rows] == [2, 7, 9, 4, 5]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["alarms"] for row in rows] == [2, 1, 0, 0, 0]
    assert [row["methods"] for row in rows] == [2, 2, 1, 2, 2]
    assert [row["best_rank"] for row in rows] == [1, 1, 1, 2, 3]
    assert [row["mean_rank"] for row in rows] == [1.5, 2.5, 1, 3, 3]
    assert [(row["method"], row["y"], row["excess"]) for row in rows[:2]] == [("rollout", 4, 0.5), ("legrad", 0, 0.9)]


def test_of_no_classes_there_is_no_row() -> None:
    assert rank_classes(SHORTCUTS.empty_table()).schema.equals(SUSPICIOUS_CLASSES)


@pytest.mark.parametrize("alarm", [True, False])
def test_the_order_of_the_rows_that_come_in_is_of_no_matter(alarm: bool) -> None:
    rows = [("legrad", index, index + 1, alarm, -index / 10, index) for index in range(6)]
    first, again = rank_classes(shortcuts_of(rows)), rank_classes(shortcuts_of(rows[::-1]))
    assert first.to_pylist() == again.to_pylist()


def test_a_control_alone_makes_no_class_suspicious() -> None:
    found = rank_classes(shortcuts_of([("edges", 3, 1, True, 0.8, 0), ("legrad", 3, 1, False, 0.0, 1)]))
    assert [(row["alarms"], row["methods"], row["method"]) for row in found.to_pylist()] == [(0, 1, "legrad")]
    assert rank_classes(shortcuts_of([("center", 3, 1, True, 0.8, 0)])).num_rows == 0
