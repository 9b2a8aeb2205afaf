"""Values of faithfulness and sanity metrics, read as columns of the table of images."""

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


def metric_hashes(out: str, shard: str, parent: str) -> tuple[str, ...]:
    """Return hashes of the metric values of a shard; tables with other values must be made again.

    Args:
        out: folder or URL of the audit.
        shard: short name of the shard.
        parent: ``content_hash`` of the commit of its maps.
    """
    return tuple(f"{suite} {content_hash(commit)}" for suite, commit in _read_commits(out, shard, parent))


def _read_commits(out: str, shard: str, parent: str) -> Iterator[tuple[MetricSuite, DerivedCommit]]:
    for suite in get_args(MetricSuite):
        commit = read_commit(ObjectStore(f"{out}/{suite}"), shard)
        if commit is not None and commit.parent == parent:  # else it is of maps that have been replaced
            yield suite, commit


class ShardMetrics:
    """Metric values of one shard and target kind, of the images that were sampled.

    Args:
        out: folder that may hold ``faithfulness`` and ``sanity``.
        shard: short name of the shard.
        parent: ``content_hash`` of the commit of its maps.
        target: target kind of the maps.
    """

    def __init__(self, out: str, shard: str, parent: str, target: str) -> None:
        self._values: dict[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for suite, _ in _read_commits(out, shard, parent):
            table = from_parquet(ObjectStore(f"{out}/{suite}").get(f"values/{shard}.parquet"))
            table = table.filter(pc.equal(table["target"].cast(pa.string()), target))
            methods, metrics = (table[name].cast(pa.string()) for name in ("method", "metric"))
            for method in methods.unique().to_pylist():
                is_method = pc.equal(methods, method)
                for metric in metrics.filter(is_method).unique().to_pylist():
                    values = table.filter(pc.and_(is_method, pc.equal(metrics, metric))).sort_by("row")
                    self._values[method, metric] = (values["row"].to_numpy(), values["value"].to_numpy())

    def column(self, method: str, metric: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the values of samples: float64 [n], NaN where there is none.

        Args:
            method: name of the method.
            metric: name of the metric.
            rows: [n], rows of the samples.
        """
        sampled, values = self._values.get((method, metric), (np.empty(0, np.int64), np.empty(0)))
        return values_at_rows(sampled, values, rows)


def values_at_rows(
    known: NDArray[np.int64], values: NDArray[np.floating], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the values of samples: float64 [n], NaN where there is none.

    Args:
        known: [m], rows of the samples with a value, ascending.
        values: [m], their values.
        rows: [n], rows of the wanted samples.
    """
    if not len(known):
        return np.full(len(rows), np.nan)
    index = np.searchsorted(known, rows).clip(max=len(known) - 1)
    return np.where(known[index] == rows, values[index], np.nan)
