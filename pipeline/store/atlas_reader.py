"""Base of the atlas reader: rows of arrays, and sample tables of shards."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import product
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
from schemas.samples import LABEL_COLUMNS, LATER_COLUMNS, SAMPLES, TARGET_COLUMNS


class AtlasReader(MapReader):
    """Arrays and sample tables of an atlas, by row and by shard.

    Attributes:
        objects: objects of the atlas.
        own: record of its run, without the methods that were dropped.
        parts: atlases of further methods or targets for the same shards, finished or not.
    """

    def __init__(self, objects: ObjectStore, run: RunRecord, parts: Iterable[Self] = ()) -> None:
        self.objects, self.own, self.parts = objects, run, tuple(parts)

    @property
    def url(self) -> str:
        return self.objects.url

    @cached_property
    def run(self) -> RunRecord:
        """Record of the run, with methods and targets of the parts that are done for every finished shard.

        The targets are the longest list of which all methods have every one.
        """
        if not self._done:
            return self.own
        runs = [self.own, *(part.own for part in self._done)]
        methods = [run for run in runs if not run.first_target]
        names = {name for run in methods for name in run.methods}
        present = {(name, target) for run in runs for name in run.methods for target in run.stored_targets}
        kinds = max(
            (run.spec for run in runs if present.issuperset(product(names, run.spec.target_names))),
            key=lambda spec: len(spec.target_names),
        ).targets
        return self.own.joined(methods[1:], kinds)

    @cached_property
    def _done(self) -> tuple[Self, ...]:
        """Parts that are done for every finished shard."""
        return tuple(part for part in self.parts if self.committed <= part.committed)

    @cached_property
    def _with_all_targets(self) -> Self:
        """The atlas itself, or the part whose sample tables have columns of all targets."""
        everyone: tuple[Self, ...] = (self, *self._done)
        return next(each for each in everyone if each.own.spec.targets == self.run.spec.targets)

    @cached_property
    def group(self) -> zarr.Group:
        """Zarr group, read-only."""
        return zarr.open_group(self.zarr_store, mode="r", zarr_format=3)

    @property
    def zarr_store(self) -> ReadOnlyStore:
        """Zarr store, read-only."""
        return ReadOnlyStore(self.objects, MAPS)

    def holder(self, array: str, target: str) -> Self:
        """Return what has an array for a target: the atlas itself, or a part; of several the first that is done.

        Raises:
            UsageError: no such array or target.
        """
        everyone: tuple[Self, ...] = (self, *self._done, *self.parts)
        holders = (each for each in everyone if array in each._arrays and target in each.own.stored_targets)
        if (found := next(holders, None)) is None:
            self.check_array(array, target)
            raise UsageError(f"{self.url}: has no {array} of {target}")
        return found

    @cached_property
    def _arrays(self) -> frozenset[str]:
        return frozenset(self.own.arrays)

    def folder_of(self, holder: "AtlasReader") -> str:
        """Return the path of a part in the atlas; empty for the atlas itself."""
        return "" if holder is self else holder.objects.url.removeprefix(f"{self.url}/")

    def commit_in(self, holder: Self, commit: CommitRecord) -> CommitRecord:
        """Return the commit of a shard in the atlas itself, or in a part.

        Args:
            holder: the atlas or part.
            commit: own commit of the shard.

        Raises:
            UsageError: the part has no maps of this shard yet.
            RunFailedError: it has maps of fewer samples.
        """
        if holder is self:
            return commit
        url, shard, what = self.url, commit.shard, holder.added
        try:
            of_part = holder.record(shard)
        except FileNotFoundError:
            raise UsageError(f"{url}: shard {shard} has no maps {what} yet; finish them: vitatlas run {url}") from None
        if of_part.statuses != commit.statuses:
            raise RunFailedError(
                f"{url}: shard {shard} has samples that were retried since its maps {what} were computed; compute the "
                f"others: vitatlas run {url} --retry-failed"
            )
        return of_part

    @property
    def added(self) -> str:
        """What the maps of a part are of, for messages: ``of legrad``, or ``of predicted`` if it adds targets."""
        return f"of {', '.join(self.own.stored_targets if self.own.first_target else self.own.methods)}"

    def count_degenerate(self, method: str, commit: CommitRecord) -> int:
        holders = dict.fromkeys(self.holder(method, target) for target in self.run.stored_targets)
        return sum(self.commit_in(holder, commit).degenerate.get(method, 0) for holder in holders)

    def parts_of(self, shard: str, methods: Sequence[str]) -> dict[str, str]:
        """Return the hash of one shard in each part with maps of some methods, or the columns of all targets.

        Args:
            shard: name of the shard.
            methods: names of methods.

        Returns:
            The hashes by the ``run_hash`` of the part.

        Raises:
            UsageError, RunFailedError: see ``commit_in``.
        """
        commit = self.record(shard)
        holders = {self.holder(method, target) for method in methods for target in self.run.stored_targets}
        return {
            part.own.run_hash: content_hash(self.commit_in(part, commit))
            for part in self._done
            if part in holders or part is self._with_all_targets
        }

    def has_parts(self, shard: str, parts: Mapping[str, str]) -> bool:
        """Return whether one shard has the same maps in these parts, as ``parts_of`` returned them."""
        now = {part.own.run_hash: part for part in self.parts if shard in part.committed}
        return all(
            run_hash in now and content_hash(now[run_hash].record(shard)) == digest
            for run_hash, digest in parts.items()
        )

    def run_of(self, shard: str, method: str) -> str:
        return next((each.own.run_hash for each in self._with(self.parts) if method in each.own.methods), "")

    def samples_of(
        self, shard: str, columns: Sequence[str] | None = None, commit: CommitRecord | None = None
    ) -> pa.Table:
        """Return the sample table of one finished shard; if targets were added, that of the part with all of them.

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
        holder = self._with_all_targets
        if holder is not self and not {*TARGET_COLUMNS, *LABEL_COLUMNS}.isdisjoint(columns or TARGET_COLUMNS):
            return holder.samples_of(shard, columns, self.commit_in(holder, commit))
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
        run = self.run
        return Location(self.objects.url, run.run_hash, len(run.shards), self.methods, run.spec.target_names)

    def commits_of(self, shard: str) -> list[tuple[Location, CommitRecord]]:
        return [(each.locate(shard), each.record(shard)) for each in self._with(self._done)]

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
        self.check_array(array, target)
        target = self.find_target(target)
        holder = self.holder(array, target)
        selection: Any = rows, holder.own.stored_targets.index(target)
        try:
            return np.asarray(holder.group[array][selection])
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
                raise self._unfinished(method, part)
        super()._check_method(method)

    def _no_target(self, target: str) -> UsageError:
        part = next((part for part in self.parts if target in part.own.stored_targets), None)
        return self._unfinished(target, part) if part else super()._no_target(target)

    def _unfinished(self, name: str, part: Self) -> UsageError:
        done, all_shards = len(self.committed & part.committed), len(self.committed)
        return UsageError(
            f"{self.url}: {name} is being added, {done} of {all_shards} shards have its maps; finish "
            f"it: vitatlas run {self.url}"
        )
