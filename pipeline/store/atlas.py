"""The reader of an atlas."""

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zarr
from numpy.typing import NDArray

from pipeline.store.atlas_shard import AtlasShard
from pipeline.store.card import html
from pipeline.store.map_dataset import MapDataset
from pipeline.store.object_store import ObjectStore
from pipeline.store.parquet import from_parquet
from pipeline.store.zarr_store import Source
from pipeline.utils.concurrency import concurrent_map
from schemas import layout
from schemas.commits import CommitRecord, QuarantineRecord
from schemas.errors import RunFailedError, UsageError
from schemas.layout import (
    COMMITS,
    FORMAT,
    MAPS,
    QUARANTINED,
    RUN,
    Flag,
    commit_object,
    flag_name,
    quarantine_object,
    range_name,
    samples_object,
)
from schemas.run import RunRecord
from schemas.samples import SAMPLES, SampleStatus
from schemas.text import suggest

if TYPE_CHECKING:
    import xarray
    from PIL.Image import Image


class Atlas:
    """A bound collection of maps: ``Atlas.open(url)``.

    Only committed shards are read. What a run adds later is seen after opening again. To another process it is sent as
    its address, and opened there once, however many shards are worked on: the plan of 100,000 shards has 17 MB.
    """

    def __init__(self, objects: ObjectStore, run: RunRecord) -> None:
        self.objects, self.run = objects, run

    @classmethod
    def open(cls, url: str) -> Self:
        """Open an atlas at a local path or any fsspec URL.

        Raises:
            UsageError: there is none, or it is of a later format.
        """
        objects = ObjectStore(url)
        try:
            data = objects.get(RUN)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{url}: is not an atlas (it has no {RUN}); make one with vitatlas plan") from None
        try:
            run = RunRecord.read(data, f"{url}/{RUN}")
        except UsageError:
            _check_format(_format(data), url)  # what else is in a later one may be anything
            raise
        _check_format(run.format, url)
        return cls(objects, run)

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.objects.url, self._digest)

    @cached_property
    def _digest(self) -> str:
        return self.run.digest()

    def __repr__(self) -> str:
        done = f"{len(self.committed)} of {len(self.run.shards)} shards"
        return f"<Atlas {self.objects.url}: {done}, methods {', '.join(self.run.methods)}>"

    def _repr_html_(self) -> str:
        return html(self)

    @cached_property
    def shard_names(self) -> tuple[str, ...]:
        """Finished shards in the order of the run, from one listing; no record of them is read."""
        present = set(self.objects.list(COMMITS))
        return tuple(shard.name for shard in self.run.shards if f"{shard.name}.json" in present)

    @cached_property
    def committed(self) -> frozenset[str]:
        """Finished shards, as ``shards``."""
        return frozenset(self.shard_names)

    def records(self, but: Container[str] = ()) -> Iterator[CommitRecord]:
        """Commit records of the finished shards, in the order of the run, of which a few at a time are in memory.

        Args:
            but: shards whose records are not read.
        """
        wanted = [(index, shard.name) for index, shard in enumerate(self.run.shards) if shard.name not in but]
        shards = [(index, shard_name) for index, shard_name in wanted if shard_name in self.committed]
        found = self.objects.read([commit_object(shard_name) for _, shard_name in shards])
        for (index, shard_name), data in zip(shards, found, strict=True):
            yield self._commit(index, shard_name, data)

    def quarantined(self) -> dict[str, str]:
        """Why the last run could not do a shard, or not do it again, by its name."""
        names = [quarantine_object(shard.name) for shard in self.run.shards]
        there = set(self.objects.list(QUARANTINED))
        found = [name for name in names if name.removeprefix(f"{QUARANTINED}/") in there]
        reasons = {}
        for name, data in zip(found, self.objects.read(found), strict=True):
            shard_name = name.removeprefix(f"{QUARANTINED}/").removesuffix(".json")
            try:
                reasons[shard_name] = QuarantineRecord.read(data, name).reason
            except UsageError as error:  # torn: that it is quarantined is known nevertheless
                reasons[shard_name] = f"{error}"
        return reasons

    @cached_property
    def commits(self) -> Mapping[str, CommitRecord]:
        """All of them, by shard. Of many shards they take much memory; see ``shards`` and ``records``."""
        return {record.shard: record for record in self.records()}

    def statuses(self) -> Counter[str]:
        """How many samples of the finished shards ended in each status."""
        total: Counter[str] = Counter()
        for record in self.records():
            total.update(record.statuses)
        return total

    def _commit(self, index: int, shard: str, data: bytes) -> CommitRecord:
        where = f"{self.objects.url}/{commit_object(shard)}"
        try:
            record = CommitRecord.read(data, where)
            if (record.shard, record.shard_index) != (shard, index):
                raise UsageError(f"{where}: is of shard {record.shard}")
            if record.spec_hash != self.run.spec_hash:
                raise UsageError(f"{where}: was computed for another spec")
        except UsageError as error:
            raise RunFailedError(f"{error}; remove it, then: vitatlas run {self.objects.url}") from None
        return record

    def record(self, shard: str) -> CommitRecord:
        """The commit record of one finished shard, without reading those of the others.

        Raises:
            RunFailedError: it is none.
        """
        if "commits" in self.__dict__:
            return self.commits[shard]
        return self._commit(self._places[shard], shard, self.objects.get(commit_object(shard)))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {shard.name: index for index, shard in enumerate(self.run.shards)}

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that have maps here."""
        return tuple(self.run.methods)

    @cached_property
    def group(self) -> zarr.Group:
        """The Zarr group, for reading."""
        return zarr.open_group(self._source, mode="r", zarr_format=3)

    @property
    def _source(self) -> Source:
        return Source(self.objects, MAPS)

    def samples(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The sample table of all finished shards; columns as in ``schemas.samples.SAMPLES``."""
        tables = list(concurrent_map(partial(self.samples_of, columns=columns), self.shard_names))
        if tables:
            return pa.concat_tables(tables).combine_chunks()
        return SAMPLES.empty_table().select(list(columns or SAMPLES.names))

    def samples_of(self, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The sample table of one finished shard.

        Raises:
            RunFailedError: it is missing or damaged.
        """
        where = f"{self.objects.url}/{samples_object(shard)}"
        try:
            return from_parquet(self.objects.get(samples_object(shard)), columns)
        except FileNotFoundError:
            raise RunFailedError(f"{where}: is missing; see vitatlas verify") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise RunFailedError(f"{where}: cannot be read ({error}); see vitatlas verify") from None

    def maps(self, method: str) -> "xarray.DataArray":
        """All maps of a method, lazily: float16 (row, target, y, x) in [0, 1], NaN where there is none.

        Raises:
            UsageError: the atlas has no such method.
        """
        self._check(method)
        return self.to_xarray()[method]

    def to_xarray(self) -> "xarray.Dataset":
        """All arrays of all methods, lazily: of each, maps (row, target, y, x), range, flag and extra outputs.

        Rows are those of the sample table; those of shards that are not finished hold no maps.
        """
        import xarray  # half a second, and few need it

        return xarray.open_zarr(self._source, zarr_format=3)

    def dataset(self, method: str, target: str = "label") -> MapDataset:
        """Its maps of a method, each with its row, for ``torch.utils.data.DataLoader``.

        Raises:
            UsageError: the atlas has no such method or target, or nothing yet.
        """
        return MapDataset(self, method, target)

    def show(self, key: str | int, *methods: str, target: str = "label") -> "Image":
        """Maps of one sample over its picture, in a row; alone, with a warning, where its shard cannot be read.

        Args:
            key: of the sample, or its row number.
            methods: whose maps; all, where none is named.

        Returns:
            A PIL image, which a notebook shows.

        Raises:
            UsageError: see ``map``.
        """
        from pipeline.store.map_figure import show

        row = self._row(key)
        maps = {method: self.map(row, method, target) for method in methods or self.methods}
        shard_index, ordinal = divmod(row, self.run.slot)
        (sample,) = self.samples_of(self.run.shards[shard_index].name).slice(ordinal, 1).to_pylist()
        return show(self, sample, maps, target)

    def map(self, key: str | int, method: str, target: str = "label") -> NDArray[np.float32]:
        """One map: float32 [h, w] in [0, 1].

        Args:
            key: of the sample, or its row number.

        Raises:
            UsageError: no such key, method or target, several samples of that key, or no map.
        """
        values: NDArray[np.float32] = self._read(method, self._row(key), target).astype(np.float32)
        return values

    def raw(self, key: str | int, method: str, target: str = "label") -> NDArray[np.float32]:
        """One map as the method gave it, up to the rounding to float16: float32 [h, w]."""
        row = self._row(key)
        low, high = self._read(range_name(method), row, target)
        values: NDArray[np.float32] = low + (high - low) * self._read(method, row, target).astype(np.float32)
        return values

    def shard(self, shard: str) -> AtlasShard:
        """Everything of one finished shard.

        Raises:
            UsageError: it is not finished.
        """
        try:  # no listing, which takes longer the more shards there are
            commit = self.record(shard)
        except (FileNotFoundError, KeyError):
            raise UsageError(f"{self.objects.url}: shard {shard} is not finished; see vitatlas status") from None
        return AtlasShard(self, commit)

    def flag(self, key: str | int, method: str, target: str = "label") -> Flag:
        """Whether one map says anything."""
        return Flag(int(self._read(flag_name(method), self._row(key), target)))

    def _read(self, array: str, rows: int | slice | NDArray[np.int64], target: str) -> NDArray[Any]:
        if array not in self._arrays:
            self._check(array)
        self._check_target(target)
        return self._rows(array, (rows, self.run.spec.targets.index(target)))

    def _rows(self, array: str, selection: Any) -> NDArray[Any]:
        try:
            return np.asarray(self.group[array][selection])
        except (ValueError, RuntimeError, KeyError) as error:
            raise RunFailedError(
                f"{self.objects.url}: {array} cannot be read ({error}); vitatlas verify says what is damaged"
            ) from error

    @cached_property
    def _arrays(self) -> frozenset[str]:
        extra_outputs = self.run.extra_outputs
        return frozenset(
            name for method in self.methods for name in layout.arrays(method, extra_outputs.get(method, ()))
        )

    def require(self, target: str, methods: Iterable[str]) -> None:
        """Make sure that there is something to be made of these methods and this target.

        Raises:
            UsageError: no such target or method, or no finished shard.
        """
        self.offers(target, methods)
        if not self.committed:
            url = self.objects.url
            raise UsageError(f"{url}: has no finished shard yet; run it first: vitatlas run {url}")

    def offers(self, target: str, methods: Iterable[str]) -> None:
        """Make sure that the run is of these methods and this target. Nothing is read.

        Raises:
            UsageError: no such target or method.
        """
        self._check_target(target)
        for method in methods:
            self._check(method)

    def _check_target(self, target: str) -> None:
        if target not in self.run.spec.targets:
            hint, there = suggest(target, self.run.spec.targets), ", ".join(self.run.spec.targets)
            raise UsageError(f"{self.objects.url}: has no target {target!r}; it has {there}{hint}")

    def _check(self, method: str) -> None:
        if method not in self.run.methods:
            hint, there = suggest(method, self.run.methods), ", ".join(self.run.methods)
            raise UsageError(f"{self.objects.url}: has no maps of {method!r}; it has {there}{hint}")

    @cached_property
    def _index(self) -> pa.Table:
        return self.samples(["row", "key", "status", "error"])

    def _row(self, key: str | int) -> int:
        column = "row" if isinstance(key, int) else "key"
        found = self._index.filter(pc.equal(self._index[column], key))
        if not len(found):
            raise UsageError(f"{self.objects.url}: has no sample {key!r} in its finished shards")
        good = found.filter(pc.equal(found["status"].cast(pa.string()), SampleStatus.OK))
        if not len(good):
            status, error = found["status"][0].as_py(), found["error"][0].as_py()
            raise UsageError(f"{key}: has no map, its status is {status} ({error})")
        if len(good) > 1:
            rows = ", ".join(str(row) for row in good["row"].to_pylist())
            raise UsageError(f"{key}: is the key of several samples; ask by row instead: {rows}")
        return int(good["row"][0].as_py())


@lru_cache(maxsize=1)
def _opened(url: str, digest: str) -> Atlas:
    """An atlas, which this process opens but once as long as its plan is the same."""
    return Atlas.open(url)


def _check_format(found: int, url: str) -> None:
    if found > FORMAT:
        raise UsageError(f"{url}: has format {found}, this version reads up to {FORMAT}; update it")


def _format(data: bytes) -> int:
    """The format that a ``run.json`` says it has, whatever else is in it."""
    try:
        return int(json.loads(data)["format"])
    except (ValueError, KeyError, TypeError):
        return FORMAT
