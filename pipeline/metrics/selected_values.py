"""Tables of values of selected samples of an atlas, computed shard by shard."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from pipeline.metrics.metric import MetricCost
from pipeline.metrics.run_speed import describe_time
from pipeline.metrics.sample_selection import SelectedSamples
from pipeline.run.derive import DerivedProduct, ShardResult, ShardTask
from pipeline.store import MapReader
from pipeline.store.derived import ProductStore
from pipeline.store.parquet import from_parquet, to_parquet
from pipeline.utils.progress import describe_shares
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
        costs: largest cost of one image and one class by what is computed of it.
        classes: mean number of classes of an image that are explained.
        log: called with the cost before anything is computed.
    """

    uses_gpu: bool = True
    samples: SelectedSamples
    costs: Mapping[str, MetricCost]
    log: Callable[[str], None]
    classes: float = 1.0

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(self.samples)

    def is_complete(self, commit: DerivedCommit) -> bool:
        return commit.items == _items(self.samples[commit.shard])

    def inputs(self, shards: Sequence[str]) -> list[Ordinals]:
        ordinals = [self.samples[shard] for shard in shards]
        if count := sum(map(len, ordinals)):
            total = sum(self.costs.values(), MetricCost()) * (count * self.classes)
            shares = describe_shares({name: cost.in_forwards for name, cost in self.costs.items()})
            time = describe_time(self.source, shards, total.in_forwards)
            self.log(f"{self.title}: {count} images, about {total}, which take {time}; of the time {shares}")
        return ordinals

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
