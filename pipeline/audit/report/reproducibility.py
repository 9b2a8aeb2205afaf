"""What came of computing maps again, in short."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from schemas.audit_tables import OTHER_BATCH, SAME_BATCH


@dataclass(frozen=True)
class Reproducibility:
    """Maps that were computed again.

    Attributes:
        rows, drawn: images that could be computed again, of how many that were drawn.
        same, other: pictures in a batch, of the run and of the other way.
        equal: share of all maps that came out the same bit by bit, with the batches of the run; None: there are none.
        off: largest difference of a value in [0, 1], with other batches; None likewise.
        methods: of each its row of ``schemas.audit_tables.REPRODUCIBILITY`` with the batches of the run, and that with others.
    """

    rows: int
    drawn: int
    same: int
    other: int
    equal: float | None
    off: float | None
    methods: tuple[tuple[dict[str, Any], dict[str, Any]], ...]


def summarize_reproducibility(table: pa.Table, target: str) -> Reproducibility | None:
    """``schemas.audit_tables.REPRODUCIBILITY`` for the maps of a target; None where no method has any."""
    rows = [row for row in table.to_pylist() if row["target"] == target]
    same = {row["method"]: row for row in rows if row["kind"] == SAME_BATCH}
    other = {row["method"]: row for row in rows if row["kind"] == OTHER_BATCH}
    methods = tuple((same[method], other[method]) for method in same if method in other)
    if not methods:
        return None
    one, two = methods[0]
    equal, off = (
        _known([row["equal_share"] for row, _ in methods]),
        _known([row["max_difference"] for _, row in methods]),
    )
    return Reproducibility(
        rows=one["recomputed"],
        drawn=one["sampled"],
        same=one["batch_size"],
        other=two["batch_size"],
        equal=sum(equal) / len(equal) if equal else None,
        off=max(off, default=None),
        methods=methods,
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
