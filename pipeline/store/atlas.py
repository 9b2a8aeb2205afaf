"""``Atlas``: the reader of an atlas."""

from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from html import escape
from typing import TYPE_CHECKING, Any, Self, overload

from pipeline.store.atlas_reader import AtlasReader
from pipeline.store.atlas_shard import AtlasShard
from pipeline.store.join import join
from pipeline.store.map_reader import MapReader
from pipeline.store.object_store import ObjectStore
from pipeline.store.run_file import part_stores, read_dropped, read_run
from pipeline.utils.source_name import split_source_name
from schemas.commits import CommitRecord, QuarantineRecord
from schemas.errors import RunFailedError, UsageError
from schemas.layout import (
    COMMITS,
    QUARANTINED,
    RUN,
    commit_object,
    extended_url,
    quarantine_object,
)
from schemas.run_record import RunRecord
from schemas.samples import SampleStatus
from schemas.text import escape_control

if TYPE_CHECKING:
    import xarray


class Atlas(AtlasReader):
    """A collection of maps: ``Atlas.open(url)``. It has all that a ``MapReader`` has.

    Only committed shards are read; open again to see what a run has added since. Pickle stores the URL only, and a
    process that unpickles it opens the atlas once, since the plan of 100,000 shards has 17 MB.
    """

    @overload
    @classmethod
    def open(cls, url: str, with_parts: bool = True) -> Self: ...

    @overload
    @classmethod
    def open(cls, url: Sequence[str], with_parts: bool = True, subset: bool = False) -> MapReader: ...

    @classmethod
    def open(cls, url: str | Sequence[str], with_parts: bool = True, subset: bool = False) -> MapReader:
        """Open an atlas at a local path or any fsspec URL, or several as one.

        Several of one run, over different shards, are joined in the order in which they are named: rows, tables and
        maps are those of one plan of all shards. Others are joined image by image, by key and hash: rows and tables are
        those of the first, and a method is named ``NAME:method``.

        Args:
            url: of the atlas; of several a list of ``PATH`` or ``NAME=PATH``.
            with_parts: also the methods that ``vitatlas extend`` has added; else only those of its own run.
            subset: of several atlases that are joined image by image, leave out images that not all have.

        Raises:
            UsageError: there is no atlas, it has another format, or several are neither parts of one run nor of the
                same images; the message says how they differ.
            RunFailedError: its record has been changed since it was planned; the message names the fields.
        """
        if isinstance(url, str):
            return cls._open_one(url, with_parts)
        names = [split_source_name(text) for text in url]
        return join([(name, cls._open_one(path, with_parts)) for name, path in names], subset)

    @classmethod
    def _open_one(cls, url: str, with_parts: bool) -> Self:
        objects = ObjectStore(url)
        try:
            run = read_run(objects)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{url}: is not an atlas (it has no {RUN}); create one with vitatlas plan") from None
        kept = run.without(dropped) if (dropped := read_dropped(objects)) else run
        return cls(objects, kept, cls._open_parts(objects, run) if with_parts else ())

    @classmethod
    def _open_parts(cls, objects: ObjectStore, run: RunRecord) -> Iterator[Self]:
        planned = (store for store in part_stores(objects) if store.exists(RUN))  # else an extend was stopped before
        parts = (cls.open(store.url, with_parts=False) for store in planned)
        for part in sorted(parts, key=lambda part: part.own.part_order):
            if not part.own.is_part_of(run):
                raise RunFailedError(f"{part.objects.url}: extends another atlas than the one it is in; remove it")
            if not part.own.is_removed:
                yield part

    def open_extended(self) -> Self | None:
        """Return the atlas that this one is a part of, with the parts that this one needs; else None.

        Raises:
            RunFailedError: the part was planned for another atlas.
        """
        if not self.own.extends:
            return None
        extended = self.open(extended_url(self.objects.url))
        if not self.own.is_part_of(extended.own):
            raise RunFailedError(f"{self.url}: extends another atlas than the one it is in; remove it")
        parts = (part for part in extended.parts if part.own.part_order < self.own.part_order)
        return type(self)(extended.objects, extended.own, parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_cached, (
            self.objects.url,
            self.run.run_hash,
            len(self.run.shards),
            self.methods,
            self.run.spec.target_names,
        )

    def __repr__(self) -> str:
        done = f"{len(self.committed)} of {len(self.run.shards)} shards"
        return f"<Atlas {self.url}: {done}, methods {', '.join(self.run.methods)}>"

    def _repr_html_(self) -> str:
        """Return a small table for notebooks. Only one listing is read."""
        height, width = self.run.model.grid
        rows = {
            "atlas": self.url,
            "model": f"{self.run.model.name}, {height}×{width} patches",
            **self.run.model.details,
            "methods": ", ".join(self.run.methods),
            "targets": ", ".join(map(self.run.describe_target, self.run.stored_targets)),
            "shards": f"{len(self.shard_names):,} of {len(self.run.shards):,} done",
            "images": f"{self.run.samples:,} planned",
        }
        cells = (f"<tr><th>{name}</th><td>{escape(escape_control(text))}</td></tr>" for name, text in rows.items())
        return f"<table>{''.join(cells)}</table>"

    @cached_property
    def shard_names(self) -> tuple[str, ...]:
        """Finished shards in the order of the run, from one listing without reading commits."""
        present = set(self.objects.list(COMMITS))
        return tuple(shard.name for shard in self.own.shards if f"{shard.name}.json" in present)

    @cached_property
    def committed(self) -> frozenset[str]:
        """Finished shards as a set."""
        return frozenset(self.shard_names)

    def records(self, skip: Container[str] = ()) -> Iterator[CommitRecord]:
        """Yield the commits of the finished shards in the order of the run, with only a few in memory.

        Args:
            skip: shards whose commits are not read.
        """
        shards = [
            (index, shard.name)
            for index, shard in enumerate(self.run.shards)
            if shard.name not in skip and shard.name in self.committed
        ]
        contents = self.objects.read([commit_object(shard) for _, shard in shards])
        for (index, shard), data in zip(shards, contents, strict=True):
            yield self.parse_commit(index, shard, data)

    def quarantined(self) -> dict[str, str]:
        """Return the reason of each shard that the last run quarantined, by its name."""
        present = set(self.objects.list(QUARANTINED))
        shards = [shard.name for shard in self.run.shards if f"{shard.name}.json" in present]
        names = [quarantine_object(shard) for shard in shards]
        reasons = {}
        for shard, name, data in zip(shards, names, self.objects.read(names), strict=True):
            try:
                reasons[shard] = QuarantineRecord.read(data, name).reason
            except UsageError as error:  # torn, but the shard is quarantined nevertheless
                reasons[shard] = f"{error}"
        return reasons

    @cached_property
    def commits(self) -> Mapping[str, CommitRecord]:
        """All commits by shard. Many shards take much memory; see ``shard_names`` and ``records``."""
        return {record.shard: record for record in self.records()}

    def parse_commit(self, index: int, shard: str, data: bytes) -> CommitRecord:
        """Return the commit of a shard.

        Args:
            index: index of the shard in the run.
            shard: its name.
            data: the commit as it is stored.

        Raises:
            RunFailedError: it is damaged, or of another run.
        """
        where = f"{self.url}/{commit_object(shard)}"
        repair = f"remove it, then: vitatlas run {self.url}"
        try:
            record = CommitRecord.read(data, where)
        except UsageError as error:
            raise RunFailedError(f"{error}; {repair}") from None
        if record.run_hash != self.run.run_hash:
            raise RunFailedError(
                f"{where}: was computed by run {record.run_hash}, but {RUN} describes run {self.run.run_hash}; restore "
                f"that file if it was replaced, else the commit is of another atlas: {repair}"
            )
        if (record.shard, record.shard_index) != (shard, index):
            raise RunFailedError(f"{where}: belongs to shard {record.shard}; {repair}")
        planned = self.run.shards[index]
        was_repaired = planned.fault and not planned.partial
        rows = record.rows if was_repaired else planned.samples
        counts = sum(record.statuses.values()), record.statuses.get(SampleStatus.OK, 0)
        if record.rows != rows or record.rows > self.run.slot or counts != (record.rows, record.ok):
            raise RunFailedError(f"{where}: its counts do not fit the plan or one another; {repair}")
        return record

    def record(self, shard: str) -> CommitRecord:
        """Return the present commit of one finished shard, without reading the others.

        Raises:
            RunFailedError: the commit is damaged.
        """
        return self.parse_commit(self._shard_indices[shard], shard, self.objects.get(commit_object(shard)))

    @cached_property
    def _shard_indices(self) -> dict[str, int]:
        return {shard.name: index for index, shard in enumerate(self.run.shards)}

    def maps(self, method: str) -> "xarray.DataArray":
        """Return all maps of a method, lazily: float16 (row, target, y, x) in [0, 1], NaN where there is no map.

        Raises:
            UsageError: the atlas has no such method.
        """
        self.check_planned(self.run.stored_targets[0], [method])
        return self.to_xarray()[method]

    def to_xarray(self) -> "xarray.Dataset":
        """Return all arrays of all methods, lazily: maps (row, target, y, x), ranges, flags and extra outputs.

        Rows are those of the sample table; rows of unfinished shards have no maps.

        Raises:
            RunFailedError: shards are being appended, and not all arrays have their rows yet.
        """
        import xarray  # takes half a second, and few need it

        own = xarray.open_zarr(self.zarr_store, zarr_format=3)
        targets, arrays = self.run.stored_targets, self.run.arrays
        if not self._done:
            return own
        holders = {name: [self.holder(name, target) for target in targets] for name in arrays}
        everyone = dict.fromkeys(holder for of_array in holders.values() for holder in of_array)
        found = {each: own if each is self else each.to_xarray() for each in everyone}
        if len({each.sizes["row"] for each in found.values()}) > 1:
            url = self.objects.url
            raise RunFailedError(f"{url}: shards are being appended; finish it: vitatlas run {url}")

        def join(name: str, of_array: Sequence[Self]) -> "xarray.DataArray":
            if len(set(of_array)) == 1 and of_array[0].own.stored_targets == targets:
                return found[of_array[0]][name]
            columns = [found[each][name].sel(target=[target]) for target, each in zip(targets, of_array, strict=True)]
            return xarray.concat(columns, "target")

        joined = {name: join(name, of_array) for name, of_array in holders.items()}
        return xarray.Dataset(joined, attrs=own.attrs | {"targets": list(targets)})

    def shard(self, shard: str) -> AtlasShard:
        """Return the rows of one finished shard.

        Raises:
            UsageError: the shard is not finished.
        """
        try:  # no listing, which takes longer the more shards there are
            return self.read_current(shard, partial(AtlasShard, self))
        except (FileNotFoundError, KeyError):
            raise UsageError(f"{self.url}: shard {shard} is not finished; see vitatlas status") from None


@lru_cache(maxsize=16)
def _open_cached(url: str, run_hash: str, shards: int, methods: tuple[str, ...], targets: tuple[str, ...]) -> Atlas:
    """Open an atlas, once in this process as long as its plan, number of shards, methods and targets are the same.

    Raises:
        RunFailedError: another atlas is there now, or methods were dropped.
    """
    atlas = Atlas.open(url)
    if atlas.run.run_hash != run_hash:
        raise RunFailedError(f"{url}: has been planned anew while it was read; run the command again")
    if missing := set(methods) - set(atlas.methods):
        raise RunFailedError(f"{url}: {min(missing)} was dropped while it was read; run the command again")
    return atlas
