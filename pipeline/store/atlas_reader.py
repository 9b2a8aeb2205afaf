"""Base of the atlas reader: rows of arrays, and sample tables of shards."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import zarr
from numpy.typing import NDArray

from pipeline.store.object_store import ObjectStore
from pipeline.store.parquet import from_parquet
from pipeline.store.zarr_store import ReadOnlyStore
from schemas.arrow import without_descriptions
from schemas.base import sha256
from schemas.commits import CommitRecord
from schemas.errors import AtlasError, RunFailedError, UsageError
from schemas.layout import MAPS, samples_object
from schemas.run import RunRecord
from schemas.samples import LATER_COLUMNS, SAMPLES
from schemas.targets import find_class
from schemas.text import suggest


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
        """Return the commit of one finished shard."""

    def samples_of(
        self, shard: str, columns: Sequence[str] | None = None, commit: CommitRecord | None = None
    ) -> pa.Table:
        """Return the sample table of one finished shard.

        Args:
            shard: short name of the shard.
            columns: names of columns; None: all.
            commit: of the shard; None reads it.

        Raises:
            RunFailedError: the table is missing, damaged, or not the one that was committed.
        """
        name = samples_object(shard)
        where = f"{self.objects.url}/{name}"
        fields = without_descriptions(pa.schema([SAMPLES.field(name) for name in columns or SAMPLES.names]))
        committed = [record for record in (commit or self.record(shard)).objects if record.path == name]
        try:
            data = self.objects.get(name)
            if [sha256(data)] != [record.sha256 for record in committed]:
                raise RunFailedError(f"{where}: is not the table that was committed; see vitatlas verify")
            table = from_parquet(data, fields.names)
            for position, later in enumerate(fields):
                if later.name in LATER_COLUMNS and later.name not in table.column_names:
                    table = table.add_column(position, later, pa.nulls(len(table), later.type))
            return table.cast(fields.with_metadata(table.schema.metadata))
        except FileNotFoundError:
            raise RunFailedError(f"{where}: is missing; see vitatlas verify") from None
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise RunFailedError(f"{where}: cannot be read ({error}); see vitatlas verify") from None

    def read(self, array: str, rows: int | slice | NDArray[np.int64], target: str) -> NDArray[Any]:
        """Return rows of an array for one target kind, as they are stored.

        Args:
            array: name of the array.
            rows: a row, a range of rows, or int64 [n].
            target: target kind.

        Raises:
            UsageError: the atlas has no such array or target kind.
            RunFailedError: the array cannot be read.
        """
        if array not in self.run.arrays:
            self._check_method(array)
        place = self.run.spec.target_names.index(self.find_target(target))
        return self.read_selection(array, (rows, place))

    def read_selection(self, array: str, selection: Any) -> NDArray[Any]:
        """Return a selection of an array, as it is stored.

        Args:
            array: name of the array.
            selection: an index as Zarr takes it.

        Raises:
            RunFailedError: the array cannot be read.
        """
        try:
            return np.asarray(self.group[array][selection])
        except (AtlasError, OSError):
            raise
        except Exception as error:  # whatever Zarr and its codecs meet in metadata and chunks that are not as written
            raise RunFailedError(
                f"{self.objects.url}: {array} cannot be read ({error}); find the damage with vitatlas verify"
            ) from error

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

    def _check_method(self, method: str) -> None:
        if method not in self.run.methods:
            names, hint = ", ".join(self.run.methods), suggest(method, self.run.methods)
            raise UsageError(f"{self.objects.url}: has no maps of {method!r}; it has {names}{hint}")
