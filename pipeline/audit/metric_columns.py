"""Figures of faithfulness and sanity as columns beside what the maps say by themselves."""

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.store import ObjectStore
from pipeline.store.derived import content_hash, read_commit
from pipeline.store.parquet import from_parquet
from schemas.commits import DerivedCommit
from schemas.metrics import MetricSuite
from schemas.run import TargetKind


def metric_hashes(out: str, shard: str, above: str) -> tuple[str, ...]:
    """What was measured of the maps of a shard below ``out``, by hashes: other figures make other tables.

    Args:
        above: ``content_hash`` of the shard's commit.
    """
    return tuple(f"{kind} {content_hash(record)}" for kind, record in _records(out, shard, above))


def _records(out: str, shard: str, above: str) -> Iterator[tuple[MetricSuite, DerivedCommit]]:
    for kind in get_args(MetricSuite):
        record = read_commit(ObjectStore(f"{out}/{kind}"), shard)
        if record is not None and record.parent == above:  # else it is of maps that are no more
            yield kind, record


class ShardMetrics:
    """The figures of one shard and target, of whichever pictures were drawn.

    Args:
        out: folder that holds ``faithfulness`` and ``sanity``, either or both or none.
        above: ``content_hash`` of the shard's commit.
    """

    def __init__(self, out: str, shard: str, above: str, target: TargetKind) -> None:
        self._values: dict[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for table in _tables(out, shard, above):
            of_target = table.filter(pc.equal(table["target"].cast(pa.string()), target))
            methods, figures = (of_target[name].cast(pa.string()) for name in ("method", "metric"))
            for method in methods.unique().to_pylist():
                of_method = pc.equal(methods, method)
                for figure in figures.filter(of_method).unique().to_pylist():
                    some = of_target.filter(pc.and_(of_method, pc.equal(figures, figure))).sort_by("row")
                    self._values[method, figure] = (some["row"].to_numpy(), some["value"].to_numpy())

    def of(self, method: str, figure: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Values of samples [n]: float64 [n], NaN where nothing was measured."""
        known, values = self._values.get((method, figure), (np.empty(0, np.int64), np.empty(0)))
        place = np.searchsorted(known, rows).clip(0, max(0, len(known) - 1))
        if not len(known):
            return np.full(len(rows), np.nan)
        return np.where(known[place] == rows, values[place], np.nan)


def _tables(out: str, shard: str, above: str) -> Iterator[pa.Table]:
    for kind, _ in _records(out, shard, above):
        yield from_parquet(ObjectStore(f"{out}/{kind}").get(f"values/{shard}.parquet"))
