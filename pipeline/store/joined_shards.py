"""``JoinedShards``: atlases of one run over parts of a list of shards, read as one."""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store.atlas_reader import AtlasReader
from pipeline.store.map_reader import Location, MapReader
from pipeline.store.shard_maps import ShardMaps
from schemas.commits import CommitRecord
from schemas.errors import UsageError
from schemas.run_record import RunRecord
from schemas.shard_record import ShardRecord

_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")
"""A name with a number: what is before its last number, that, and what is behind."""


class JoinedShards(MapReader):
    """Atlases whose runs differ in their shards only. Rows are those of one plan of all shards, in this order.

    Args:
        atlases: two or more of one run, in the order of their rows; see ``RunRecord.differences_to``.

    Raises:
        UsageError: a shard is in two of them.
    """

    def __init__(self, atlases: Sequence[AtlasReader]) -> None:
        first, *others = self._atlases = tuple(atlases)
        _refuse_overlaps(self._atlases)
        planned = first.own.with_shards_of(other.own for other in others)
        self._run = planned.joined([first.run], first.run.spec.targets)
        self._first_rows: dict[str, int] = {}
        self._owners: dict[str, AtlasReader] = {}
        for atlas in self._atlases:
            for index, shard in enumerate(atlas.own.shards):
                self._first_rows[shard.name] = len(self._owners) * planned.slot - index * atlas.own.slot
                self._owners[shard.name] = atlas

    def __reduce__(self) -> tuple[Any, ...]:
        return _join_cached, (self._atlases,)

    @property
    def atlases(self) -> tuple[AtlasReader, ...]:
        return self._atlases

    @property
    def url(self) -> str:
        first, *others = (atlas.url for atlas in self._atlases)
        return f"{first} and {others[0] if len(others) == 1 else f'{len(others)} others'}"

    @property
    def run(self) -> RunRecord:
        return self._run

    @cached_property
    def shard_names(self) -> tuple[str, ...]:
        """Finished shards in the order of the rows."""
        return tuple(shard for atlas in self._atlases for shard in atlas.shard_names)

    @cached_property
    def committed(self) -> frozenset[str]:
        """Finished shards as a set."""
        return frozenset(self.shard_names)

    @cached_property
    def gaps(self) -> tuple[str, ...]:
        numbered: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        for place, atlas in enumerate(self._atlases):
            for shard in atlas.own.shards:
                if match := _NUMBERED.fullmatch(shard.name):
                    stem, digits, end = match.groups()
                    numbered.setdefault((stem, end), []).append((int(digits), place, len(digits)))
        return tuple(
            f"{stem}{low + 1:0{digits}}{end} to {stem}{high - 1:0{digits}}{end}"
            for (stem, end), places in numbered.items()
            for (low, one, digits), (high, other, _) in pairwise(sorted(places))
            if high - low > 1 and one != other
        )

    def quarantined(self) -> dict[str, str]:
        return {shard: reason for atlas in self._atlases for shard, reason in atlas.quarantined().items()}

    def records(self, skip: Container[str] = ()) -> Iterator[CommitRecord]:
        return (record for atlas in self._atlases for record in atlas.records(skip))

    def atlas_of(self, shard: str) -> str:
        return self._owners[shard].own.run_hash

    def record(self, shard: str) -> CommitRecord:
        return self._owners[shard].record(shard)

    def count_degenerate(self, method: str, commit: CommitRecord) -> int:
        return self._owners[commit.shard].count_degenerate(method, commit)

    def parts_of(self, shard: str, methods: Sequence[str]) -> dict[str, str]:
        return self._owners[shard].parts_of(shard, methods)

    def has_parts(self, shard: str, parts: Mapping[str, str]) -> bool:
        return self._owners[shard].has_parts(shard, parts)

    def run_of(self, shard: str, method: str) -> str:
        return self._owners[shard].run_of(shard, method)

    def locate(self, shard: str) -> Location:
        return self._owners[shard].locate(shard)

    def commits_of(self, shard: str) -> list[tuple[Location, CommitRecord]]:
        return self._owners[shard].commits_of(shard)

    def dropped(self) -> frozenset[str]:
        return frozenset(name for atlas in self._atlases for name in atlas.dropped())

    def shard(self, shard: str) -> ShardMaps:
        if shard not in self._owners:
            raise UsageError(f"{self.url}: shard {shard} is not finished; see vitatlas status")
        maps = self._owners[shard].shard(shard)
        maps.samples = self._with_rows(shard, maps.samples)
        return maps

    def samples_of(self, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        return self._with_rows(shard, self._owners[shard].samples_of(shard, columns))

    def _with_rows(self, shard: str, samples: pa.Table) -> pa.Table:
        """Return samples of a shard with the rows that they have here."""
        if "row" not in samples.column_names:
            return samples
        place = samples.column_names.index("row")
        rows = samples["row"].to_numpy() + self._first_rows[shard]
        return samples.set_column(place, samples.schema.field(place), pa.chunked_array([pa.array(rows)]))

    def read(self, array: str, rows: int | NDArray[np.int64], target: str) -> NDArray[Any]:
        self.check_array(array, target)
        wanted = np.atleast_1d(rows)
        ends = np.cumsum([len(atlas.own.shards) for atlas in self._atlases]) * self.run.slot
        owners = np.searchsorted(ends, wanted, side="right")
        found: NDArray[Any] | None = None
        for owner in np.unique(owners):
            atlas, places = self._atlases[owner], np.flatnonzero(owners == owner)
            index, ordinal = np.divmod(wanted[places] - (ends[owner - 1] if owner else 0), self.run.slot)
            values = atlas.read(array, index * atlas.own.slot + ordinal, target)
            if found is None:
                found = np.empty((len(wanted), *values.shape[1:]), values.dtype)
            found[places] = values
        assert found is not None, "rows are those of samples"
        return found[0] if np.ndim(rows) == 0 else found


def _refuse_overlaps(atlases: Sequence[AtlasReader]) -> None:
    """Refuse a shard that is in two atlases, by its name on any file system, or by what is known of its file."""
    seen: dict[object, tuple[AtlasReader, ShardRecord]] = {}
    for atlas in atlases:
        own: dict[object, ShardRecord] = {}
        for shard in atlas.own.shards:
            own[shard.name.lower()] = shard
            if shard.fingerprint and shard.samples:
                own[shard.size, shard.fingerprint] = shard
        for mark, shard in own.items():
            if mark in seen:
                other, same = seen[mark]
                raise UsageError(
                    f"{shard.name}: is a shard of {atlas.url} and, as {same.name} ({same.url}), of {other.url}; name "
                    "atlases of different shards, or give each a name of its own, as NAME=PATH, to compare them"
                )
        seen |= {mark: (atlas, shard) for mark, shard in own.items()}


@lru_cache(maxsize=4)
def _join_cached(atlases: tuple[AtlasReader, ...]) -> JoinedShards:
    """Join atlases, once in this process as long as they are the same."""
    return JoinedShards(atlases)
