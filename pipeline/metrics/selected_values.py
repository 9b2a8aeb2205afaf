"""Tables of values of selected samples of an atlas, computed shard by shard."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from pipeline.metrics.metric import MetricCost
from pipeline.metrics.sample_selection import SelectedSamples
from pipeline.run.derive import DerivedProduct, ShardResult, ShardTask
from pipeline.store import MapReader
from pipeline.store.derived import ProductStore
from pipeline.store.parquet import from_parquet, to_parquet
from pipeline.utils.progress import describe_shares, format_time
from schemas.base import sha256
from schemas.commits import DerivedCommit

Ordinals = tuple[int, ...]
"""Selected samples of a shard."""
Source = TypeVar("Source", bound=MapReader)


@dataclass(frozen=True, kw_only=True)
class SelectedValues(DerivedProduct[Source, Ordinals, pa.Table]):
    """``values/<shard>.parquet`` for each shard with selected samples. A subclass says what is made of all of them.

    Attributes:
        samples: selected samples; the table of a shard is computed again when its samples change.
        costs: largest cost of one image by what is computed of it.
        log: called with the cost before anything is computed.
        forward_seconds: time of a forward of one image; None if it is not known.
    """

    uses_gpu: bool = True
    samples: SelectedSamples
    costs: Mapping[str, MetricCost]
    log: Callable[[str], None]
    forward_seconds: float | None = None

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(self.samples)

    def is_complete(self, commit: DerivedCommit) -> bool:
        return commit.items == _items(self.samples[commit.shard])

    def inputs(self, shards: Sequence[str]) -> list[Ordinals]:
        ordinals = [self.samples[shard] for shard in shards]
        if count := sum(map(len, ordinals)):
            total = sum(self.costs.values(), MetricCost()) * count
            shares = describe_shares({name: cost.in_forwards for name, cost in self.costs.items()})
            time = self._describe_time(total, len(shards))
            self.log(f"{self.title}: {count} images, at most {total}{time}; of the time {shares}")
        return ordinals

    def _describe_time(self, cost: MetricCost, shards: int) -> str:
        if self.forward_seconds is None:
            return ""
        processes = min(shards, os.cpu_count() or 1)
        time = format_time(cost.in_forwards * self.forward_seconds / processes)
        return f", which take {time} in {processes} process{'es' if processes > 1 else ''} as fast as the run was"

    def read_values(self, objects: ProductStore) -> Iterator[pa.Table]:
        """Read the tables of all shards, in order."""
        return map(from_parquet, objects.read([_values_object(shard) for shard in self.shards]))


def write_values(task: ShardTask[Source, Ordinals], tables: Iterable[pa.Table], schema: pa.Schema) -> ShardResult:
    """Write the values of one shard, in the order of the column ``row``.

    Args:
        task: the shard.
        tables: its values; there may be none.
        schema: of the tables.
    """
    found = list(tables)
    table = pa.concat_tables(found).unify_dictionaries() if found else schema.empty_table()
    values = table.combine_chunks().sort_by("row")
    written = task.objects.put(_values_object(task.shard), to_parquet(values))
    return ShardResult((written,), {"images": len(task.data)}, _items(task.data))


def _items(ordinals: Ordinals) -> tuple[str]:
    """Return the hash of the selected samples of a shard, for its commit."""
    return (sha256(" ".join(map(str, ordinals)).encode()),)


def _values_object(shard: str) -> str:
    return f"values/{shard}.parquet"
