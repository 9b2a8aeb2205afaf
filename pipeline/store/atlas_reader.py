"""Base of the atlas reader: rows of arrays, and sample tables of shards."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import zarr
from numpy.typing import NDArray

from pipeline.store.commit_protocol import read_committed
from pipeline.store.object_store import ObjectStore
from pipeline.store.parquet import from_parquet
from pipeline.store.zarr_store import ReadOnlyStore
from schemas.arrow import without_descriptions
from schemas.commits import CommitRecord
from schemas.errors import AtlasError, RunFailedError, ShardReplacedError, UsageError
from schemas.layout import MAPS, samples_object
from schemas.run import RunRecord
from schemas.samples import LATER_COLUMNS, SAMPLES
from schemas.targets import find_class, is_text
from schemas.text import suggest

T = TypeVar("T")


class AtlasReader(ABC):
    """Arrays and sample tables of an atlas, by row and by shard.

    Attributes:
        objects: objects of the atlas.
        run: record of the run.
    """

    def __init__(self, objects: ObjectStore, run: RunRecord) -> None:
        self.objects, self.run = objects, run

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that have maps."""
        return tuple(self.run.methods)

    @cached_property
    def group(self) -> zarr.Group:
        """Zarr group, read-only."""
        return zarr.open_group(self.zarr_store, mode="r", zarr_format=3)

    @property
    def zarr_store(self) -> ReadOnlyStore:
        """Zarr store, read-only."""
        return ReadOnlyStore(self.objects, MAPS)

    @abstractmethod
    def record(self, shard: str) -> CommitRecord:
        """Return the present commit of one finished shard."""

    def read_current(self, shard: str, read: Callable[[CommitRecord], T]) -> T:
        """Return what a function reads by the commit of a shard, and again if that is replaced meanwhile.

        Args:
            shard: short name of the shard.
            read: the function.
        """
        while True:
            with suppress(ShardReplacedError):
                return read(self.record(shard))

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
        where = f"{self.objects.url}/{name}"
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
            return np.asarray(self.group[array][selection])
        except (AtlasError, OSError):
            raise
        except Exception as error:  # whatever Zarr and its codecs meet in metadata and chunks that are not as written
            raise RunFailedError(
                f"{self.objects.url}: {array} cannot be read ({error}); find the damage with vitatlas verify"
            ) from error

    def check_array(self, array: str, target: str) -> int:
        """Return the index of a target kind in an array. Nothing is read.

        Args:
            array: name of the array.
            target: target kind.

        Raises:
            UsageError: the atlas has no such array or target kind.
        """
        if array not in self.run.arrays:
            self._check_method(array)
        return self.run.spec.target_names.index(self.find_target(target))

    def check_planned(self, target: str, methods: Iterable[str]) -> None:
        """Check that the run has a target kind and methods. Nothing is read.

        Args:
            target: target kind.
            methods: names of methods.

        Raises:
            UsageError: the run has no such target kind or method.
        """
        self.find_target(target)
        for method in methods:
            self._check_method(method)

    def find_target(self, target: str) -> str:
        """Return a target by its name in the atlas: ``class:7`` for ``class:turtle``.

        Raises:
            UsageError: the run has no such target.
        """
        targets, (kind, _, name) = self.run.spec.target_names, target.partition(":")
        if target in targets:
            return target
        if kind == "class" and name:
            target = f"class:{find_class(name, self.run.class_names, self.run.model.classes)}"
        if target not in targets:
            names = ", ".join(map(self.run.describe_target, targets))
            raise UsageError(
                f"{self.objects.url}: has no target {target!r}; it has {names}{suggest(target, targets)}; "
                "name one with --target, or as target in the policy"
            )
        return target

    def find_class_target(self, target: str) -> str:
        """Return a target by its name in the atlas, see ``find_target``, if it explains classes.

        Raises:
            UsageError: the run has no such target, or it explains a text of each image.
        """
        if is_text(target := self.find_target(target)):
            raise UsageError(
                f"{self.objects.url}: target {target} explains another text in each image, so there are no classes to "
                "sum over; name another target with --target"
            )
        return target

    def _check_method(self, method: str) -> None:
        if method not in self.run.methods:
            names, hint = ", ".join(self.run.methods), suggest(method, self.run.methods)
            raise UsageError(f"{self.objects.url}: has no maps of {method!r}; it has {names}{hint}")
