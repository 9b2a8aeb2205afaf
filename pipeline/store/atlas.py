"""``Atlas``: the reader of an atlas."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from html import escape
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.store.atlas_reader import AtlasReader
from pipeline.store.atlas_shard import AtlasShard
from pipeline.store.class_names import check_class_names
from pipeline.store.map_dataset import MapDataset
from pipeline.store.object_store import ObjectStore
from pipeline.store.run_file import part_stores, read_dropped, read_run
from pipeline.utils.concurrency import concurrent_map
from schemas.commits import CommitRecord, QuarantineRecord
from schemas.errors import RunFailedError, UsageError
from schemas.layout import (
    COMMITS,
    QUARANTINED,
    RUN,
    Flag,
    commit_object,
    extended_url,
    flag_name,
    quarantine_object,
    range_name,
)
from schemas.run_record import RunRecord
from schemas.samples import SAMPLES, SampleStatus, class_columns, class_ids, may_lack
from schemas.text import escape_control

if TYPE_CHECKING:
    import xarray
    from PIL.Image import Image


class Atlas(AtlasReader):
    """A collection of maps: ``Atlas.open(url)``.

    Only committed shards are read; open again to see what a run has added since. Pickle stores the URL only, and a
    process that unpickles it opens the atlas once, since the plan of 100,000 shards has 17 MB.
    """

    @classmethod
    def open(cls, url: str, with_parts: bool = True) -> Self:
        """Open an atlas at a local path or any fsspec URL.

        Args:
            url: of the atlas.
            with_parts: also the methods that ``vitatlas extend`` has added; else only those of its own run.

        Raises:
            UsageError: there is no atlas, or it has another format.
            RunFailedError: its record has been changed since it was planned; the message names the fields.
        """
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
        for part in (cls.open(store.url, with_parts=False) for store in planned):
            if not part.own.is_part_of(run):
                raise RunFailedError(f"{part.objects.url}: extends another atlas than the one it is in; remove it")
            if part.own.methods:  # else it is being removed
                yield part

    def open_extended(self) -> Self | None:
        """Return the atlas that this one is a part of, without its parts; None for an atlas that is no part.

        Raises:
            RunFailedError: the part was planned for another atlas.
        """
        extended = self.open(extended_url(self.objects.url), with_parts=False) if self.own.extends else None
        if extended and not self.own.is_part_of(extended.own):
            raise RunFailedError(f"{self.objects.url}: extends another atlas than the one it is in; remove it")
        return extended

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_cached, (self.objects.url, self.run.run_hash, len(self.run.shards), self.methods)

    def __repr__(self) -> str:
        done = f"{len(self.committed)} of {len(self.run.shards)} shards"
        return f"<Atlas {self.objects.url}: {done}, methods {', '.join(self.run.methods)}>"

    def _repr_html_(self) -> str:
        """Return a small table for notebooks. Only one listing is read."""
        height, width = self.run.model.grid
        rows = {
            "atlas": self.objects.url,
            "model": f"{self.run.model.name}, {height}×{width} patches",
            **self.run.model.details,
            "methods": ", ".join(self.run.methods),
            "targets": ", ".join(map(self.run.describe_target, self.run.spec.target_names)),
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

    def statuses(self) -> Counter[str]:
        """Return the number of samples of the finished shards by status."""
        total: Counter[str] = Counter()
        for record in self.records():
            total.update(record.statuses)
        return total

    def parse_commit(self, index: int, shard: str, data: bytes) -> CommitRecord:
        """Return the commit of a shard.

        Args:
            index: index of the shard in the run.
            shard: its name.
            data: the commit as it is stored.

        Raises:
            RunFailedError: it is damaged, or of another run.
        """
        where = f"{self.objects.url}/{commit_object(shard)}"
        repair = f"remove it, then: vitatlas run {self.objects.url}"
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

    def samples(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the sample table of all finished shards; columns as in ``schemas.samples.SAMPLES``."""
        tables = list(concurrent_map(partial(self.samples_of, columns=columns), self.shard_names))
        if tables:
            return pa.concat_tables(tables).combine_chunks()
        return SAMPLES.empty_table().select(list(columns or SAMPLES.names))

    def samples_with_maps(self, columns: Sequence[str], target: str | None = None) -> pa.Table:
        """Return some columns of the samples of all finished shards that have maps.

        Args:
            columns: as in ``schemas.samples.SAMPLES``.
            target: only those with a map of this target; None is of any.
        """
        needed = class_columns(target) if target else ()
        table = self.samples(list(dict.fromkeys([*columns, "status", *needed])))
        with_maps = pc.equal(table["status"].cast(pa.string()), SampleStatus.OK)
        if target and may_lack(target):
            with_maps = pc.and_(with_maps, pc.is_valid(class_ids(table, target, self.run.spec.target_names)))
        return table.filter(with_maps).select(list(columns))

    def maps(self, method: str) -> "xarray.DataArray":
        """Return all maps of a method, lazily: float16 (row, target, y, x) in [0, 1], NaN where there is no map.

        Raises:
            UsageError: the atlas has no such method.
        """
        self.check_planned(self.run.spec.target_names[0], [method])
        return self.to_xarray()[method]

    def to_xarray(self) -> "xarray.Dataset":
        """Return all arrays of all methods, lazily: maps (row, target, y, x), ranges, flags and extra outputs.

        Rows are those of the sample table; rows of unfinished shards have no maps.

        Raises:
            RunFailedError: shards are being appended, and not all arrays have their rows yet.
        """
        import xarray  # takes half a second, and few need it

        own = xarray.open_zarr(self.zarr_store, zarr_format=3)
        holders = {name: self.holder(name) for name in self.run.arrays}
        others = {part: part.to_xarray() for part in dict.fromkeys(holders.values()) if part is not self}
        if any(own.sizes["row"] != other.sizes["row"] for other in others.values()):
            url = self.objects.url
            raise RunFailedError(f"{url}: shards are being appended; finish it: vitatlas run {url}")
        return own.assign({name: others[part][name] for name, part in holders.items() if part in others})

    def dataset(self, method: str, target: str = "label") -> MapDataset:
        """Return the maps of a method, each with its row, for ``torch.utils.data.DataLoader``.

        Args:
            method: name of the method.
            target: target kind.

        Raises:
            UsageError: the atlas has no such method or target kind, or no finished shard.
        """
        self.select_methods(target, [method])
        return MapDataset(self, self.samples_with_maps(["row"], target)["row"].to_numpy(), method, target)

    def show(self, key: str | int, *methods: str, target: str = "label") -> "Image":
        """Plot maps of one sample over its image, in a row. Without the image, with a warning, if it cannot be read.

        Args:
            key: key of the sample, or its row.
            *methods: names of methods; all, if none is given.
            target: target kind.

        Returns:
            A PIL image, which a notebook displays.

        Raises:
            UsageError: see ``map``.
        """
        from pipeline.store.map_figure import plot_maps  # needs the image decoders, and few need it

        row, target = self._find_row(key, target), self.find_target(target)
        maps = {method: self.map(row, method, target) for method in methods or self.methods}
        shard_index, ordinal = divmod(row, self.run.slot)
        shard = self.shard(self.run.shards[shard_index].name)
        (sample,) = shard.samples.slice(ordinal, 1).to_pylist()
        return plot_maps(shard, sample, maps, target)

    def map(self, key: str | int, method: str, target: str = "label") -> NDArray[np.float32]:
        """Return one map: float32 [h, w] in [0, 1].

        Args:
            key: key of the sample, or its row.
            method: name of the method.
            target: target kind.

        Raises:
            UsageError: no such key, method or target kind, several samples with that key, or no map.
        """
        return self.read(method, self._find_row(key, target), target).astype(np.float32)

    def raw(self, key: str | int, method: str, target: str = "label") -> NDArray[np.float32]:
        """Return one raw map, up to the rounding to float16: float32 [h, w].

        Args:
            key: key of the sample, or its row.
            method: name of the method.
            target: target kind.

        Raises:
            UsageError: see ``map``.
        """
        row = self._find_row(key, target)
        low, high = self.read(range_name(method), row, target)
        values: NDArray[np.float32] = low + (high - low) * self.read(method, row, target).astype(np.float32)
        return values

    def shard(self, shard: str) -> AtlasShard:
        """Return the rows of one finished shard.

        Raises:
            UsageError: the shard is not finished.
        """
        try:  # no listing, which takes longer the more shards there are
            return self.read_current(shard, partial(AtlasShard, self))
        except (FileNotFoundError, KeyError):
            raise UsageError(f"{self.objects.url}: shard {shard} is not finished; see vitatlas status") from None

    def flag(self, key: str | int, method: str, target: str = "label") -> Flag:
        """Return the degeneracy of one map.

        Args:
            key: key of the sample, or its row.
            method: name of the method.
            target: target kind.

        Raises:
            UsageError: see ``map``.
        """
        return Flag(int(self.read(flag_name(method), self._find_row(key, target), target)))

    def select_methods(self, target: str, methods: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the named methods once each, or all of the atlas if none is named.

        Args:
            target: target kind of the maps.
            methods: names of methods.

        Raises:
            UsageError: no such target kind or method, or no finished shard.
        """
        names = tuple(dict.fromkeys(methods)) or self.methods
        self.check_planned(target, names)
        if not self.committed:
            url = self.objects.url
            raise UsageError(f"{url}: has no finished shard yet; run it first: vitatlas run {url}")
        return names

    def class_names(self, names: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the given names of the classes; where none are given, those of the atlas; empty if it has none.

        Raises:
            UsageError: they are not as many as the classes, or those of the atlas in another order.
        """
        check_class_names(names, self.run.class_names, self.run.model.classes, self.objects.url)
        return tuple(names) or self.run.class_names

    @cached_property
    def _index(self) -> pa.Table:
        return self.samples(["row", "key", "status", "error", "labels"])

    def _find_row(self, key: str | int, target: str) -> int:
        column = "row" if isinstance(key, int) else "key"
        samples = self._index.filter(pc.equal(self._index[column], key))
        if not len(samples):
            raise UsageError(f"{self.objects.url}: has no sample {key!r} in its finished shards")
        with_maps = samples.filter(pc.equal(samples["status"].cast(pa.string()), SampleStatus.OK))
        if not len(with_maps):
            status, error = samples["status"][0].as_py(), samples["error"][0].as_py()
            raise UsageError(f"{key}: has no map, its status is {status} ({error})")
        if len(with_maps) > 1:
            rows = ", ".join(str(row) for row in with_maps["row"].to_pylist())
            raise UsageError(f"{key}: is the key of several samples; ask by row instead: {rows}")
        labels = with_maps["labels"][0].as_py() or []
        if may_lack(target) and not labels[int(target.partition(":")[2]) - 1 :]:
            raise UsageError(f"{key}: has no map of {target}, its labels are {', '.join(map(str, labels))}")
        return int(with_maps["row"][0].as_py())


@lru_cache(maxsize=1)
def _open_cached(url: str, run_hash: str, shards: int, methods: tuple[str, ...]) -> Atlas:
    """Open an atlas, once in this process as long as its plan, number of shards and methods are the same.

    Raises:
        RunFailedError: another atlas is there now, or methods were dropped.
    """
    atlas = Atlas.open(url)
    if atlas.run.run_hash != run_hash:
        raise RunFailedError(f"{url}: has been planned anew while it was read; run the command again")
    if missing := set(methods) - set(atlas.methods):
        raise RunFailedError(f"{url}: {min(missing)} was dropped while it was read; run the command again")
    return atlas
