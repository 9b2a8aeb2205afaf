"""Base of the atlas reader: rows of arrays, and sample tables of shards."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import zarr
from numpy.typing import NDArray

from pipeline.store.commit_protocol import read_committed
from pipeline.store.derived import content_hash
from pipeline.store.map_reader import Location, MapReader
from pipeline.store.object_store import ObjectStore
from pipeline.store.parquet import from_parquet
from pipeline.store.run_file import read_dropped
from pipeline.store.zarr_store import ReadOnlyStore
from schemas.arrow import without_descriptions
from schemas.commits import CommitRecord
from schemas.errors import AtlasError, RunFailedError, UsageError
from schemas.layout import MAPS, samples_object
from schemas.run_record import RunRecord
from schemas.samples import LATER_COLUMNS, SAMPLES


class AtlasReader(MapReader):
    """Arrays and sample tables of an atlas, by row and by shard.

    Attributes:
        objects: objects of the atlas.
        own: record of its run, without the methods that were dropped.
        parts: atlases of further methods for the same shards, finished or not.
    """

    def __init__(self, objects: ObjectStore, run: RunRecord, parts: Iterable[Self] = ()) -> None:
        self.objects, self.own, self.parts = objects, run, tuple(parts)

    @property
    def url(self) -> str:
        return self.objects.url

    @cached_property
    def run(self) -> RunRecord:
        """Record of the run, with the methods of the parts that are done for every finished shard."""
        done = [part.own for part in self.parts if self.committed <= part.committed]
        return self.own.joined(done) if done else self.own

    @cached_property
    def group(self) -> zarr.Group:
        """Zarr group, read-only."""
        return zarr.open_group(self.zarr_store, mode="r", zarr_format=3)

    @property
    def zarr_store(self) -> ReadOnlyStore:
        """Zarr store, read-only."""
        return ReadOnlyStore(self.objects, MAPS)

    def holder(self, array: str) -> Self:
        """Return who has an array: the atlas itself, or one of its parts; of several the first that is done.

        Raises:
            UsageError: no such array.
        """
        everyone: tuple[Self, ...] = (self, *self.parts)
        holders = [each for each in everyone if array in each.own.arrays]
        if not holders:
            self._check_method(array)
        return next((each for each in holders if self.committed <= each.committed), holders[0])

    def folder_of(self, holder: "AtlasReader") -> str:
        """Return the path of a part in the atlas; empty for the atlas itself."""
        return "" if holder is self else holder.objects.url.removeprefix(f"{self.url}/")

    def commit_of(self, array: str, commit: CommitRecord) -> CommitRecord:
        """Return the commit with an array of a shard: its own, or that of the part that has the method.

        Args:
            array: name of the array, such as that of a method.
            commit: own commit of the shard.

        Raises:
            UsageError: the part has no maps of this shard yet.
            RunFailedError: it has maps of fewer samples.
        """
        holder, url, shard = self.holder(array), self.url, commit.shard
        if holder is self:
            return commit
        try:
            of_part = holder.record(shard)
        except FileNotFoundError:
            raise UsageError(f"{url}: shard {shard} has no {array} maps yet; finish them: vitatlas run {url}") from None
        if of_part.statuses != commit.statuses:
            raise RunFailedError(
                f"{url}: shard {shard} has samples that were retried since its {array} maps were computed; compute the "
                f"others: vitatlas run {url} --retry-failed"
            )
        return of_part

    def parts_of(self, shard: str, methods: Sequence[str]) -> dict[str, str]:
        """Return the hash of the maps of one shard in each part with some of the methods, by the part's ``run_hash``.

        Args:
            shard: name of the shard.
            methods: names of methods.

        Raises:
            UsageError, RunFailedError: see ``commit_of``.
        """
        commit, holders = self.record(shard), {self.holder(method): method for method in methods}
        return {
            part.own.run_hash: content_hash(self.commit_of(method, commit))
            for part, method in holders.items()
            if part is not self
        }

    def has_parts(self, shard: str, parts: Mapping[str, str]) -> bool:
        """Return whether one shard has the same maps in these parts, as ``parts_of`` returned them."""
        now = {part.own.run_hash: part for part in self.parts if shard in part.committed}
        return all(
            run_hash in now and content_hash(now[run_hash].record(shard)) == digest
            for run_hash, digest in parts.items()
        )

    def samples_of(
        self, shard: str, columns: Sequence[str] | None = None, commit: CommitRecord | None = None
    ) -> pa.Table:
        """Return the sample table of one finished shard.

        Args:
            shard: short name of the shard.
            columns: names of columns; None: all.
            commit: of the shard; None reads it, and again if it is replaced meanwhile.

        Raises:
            ShardReplacedError: the commit that was given has been replaced.
            RunFailedError: the table is missing, damaged, or not the one that was committed.
        """
        if commit is None:
            return self.read_current(shard, lambda current: self.samples_of(shard, columns, current))
        name = samples_object(shard)
        where = f"{self.url}/{name}"
        fields = without_descriptions(pa.schema([SAMPLES.field(name) for name in columns or SAMPLES.names]))
        record = next((record for record in commit.objects if record.path == name), None)
        if record is None:
            raise RunFailedError(f"{where}: was not committed; see vitatlas verify")
        try:
            table = from_parquet(read_committed(self.objects, commit, record), fields.names)
            for position, later in enumerate(fields):
                if later.name in LATER_COLUMNS and later.name not in table.column_names:
                    table = table.add_column(position, later, pa.nulls(len(table), later.type))
            return table.cast(fields.with_metadata(table.schema.metadata))
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise RunFailedError(f"{where}: cannot be read ({error}); see vitatlas verify") from None

    def locate(self, shard: str) -> Location:
        return Location(self.objects.url, self.run.run_hash, len(self.run.shards), self.methods)

    def commits_of(self, shard: str) -> list[tuple[Location, CommitRecord]]:
        parts = [part for part in self.parts if any(method in self.run.methods for method in part.own.methods)]
        return [(each.locate(shard), each.record(shard)) for each in self._with(parts)]

    def products(self, folder: str) -> dict[str, ObjectStore]:
        return {name: ObjectStore(f"{self.objects.url}/{folder}/{name}") for name in self.objects.list(folder)}

    def _with(self, parts: Iterable[Self]) -> tuple[Self, ...]:
        return (self, *parts)

    def dropped(self) -> frozenset[str]:
        stores = (self.objects, *(part.objects for part in self.parts))
        return frozenset(name for objects in stores for name in read_dropped(objects)) - set(self.methods)

    def read(self, array: str, rows: int | slice | NDArray[np.int64], target: str) -> NDArray[Any]:
        """Return rows of an array for one target kind, as they are stored; they are not compared with a commit.

        Args:
            array: name of the array.
            rows: a row, a range of rows, or int64 [n].
            target: target kind.

        Raises:
            UsageError: the atlas has no such array or target kind.
            RunFailedError: the array cannot be read.
        """
        selection: Any = rows, self.check_array(array, target)
        try:
            return np.asarray(self.holder(array).group[array][selection])
        except (AtlasError, OSError):
            raise
        except Exception as error:  # whatever Zarr and its codecs meet in metadata and chunks that are not as written
            raise RunFailedError(
                f"{self.url}: {array} cannot be read ({error}); find the damage with vitatlas verify"
            ) from error

    def _check_method(self, method: str) -> None:
        if method in self.run.methods:
            return
        for part in self.parts:
            if method in part.own.arrays:
                done, all_shards = len(self.committed & part.committed), len(self.committed)
                raise UsageError(
                    f"{self.url}: {method} is being added, {done} of {all_shards} shards have its maps; finish "
                    f"it: vitatlas run {self.url}"
                )
        super()._check_method(method)
