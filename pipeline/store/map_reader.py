"""``MapReader``: what reads maps by shard, by row and by key: an atlas, or several that are joined."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.store.frame import Frame
from pipeline.store.map_dataset import MapDataset
from pipeline.store.object_store import ObjectStore
from pipeline.store.run_names import RunNames
from pipeline.store.shard_maps import ShardMaps
from pipeline.utils.concurrency import concurrent_map
from pipeline.utils.isolated import is_isolated
from schemas.commits import CommitRecord
from schemas.errors import ShardReplacedError, UsageError
from schemas.layout import Flag, flag_name, range_name
from schemas.samples import SAMPLES, SampleStatus, class_columns, class_ids, may_lack

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


class Location(NamedTuple):
    """Where the maps of a shard were computed: an atlas, as it was when it was opened.

    Attributes:
        url: of the atlas.
        run_hash: of its run.
        shards: number of its shards.
        methods: names of its methods.
        targets: its targets.
    """

    url: str
    run_hash: str
    shards: int
    methods: tuple[str, ...]
    targets: tuple[str, ...]


class MapReader(RunNames):
    """Maps and sample tables, by shard and by row: of an atlas, or of several that are joined.

    Only committed shards are read; open again to see what a run has added since. It has all that ``RunNames`` has.
    """

    @property
    @abstractmethod
    def shard_names(self) -> tuple[str, ...]:
        """Finished shards in the order of the run."""

    @property
    def committed(self) -> frozenset[str]:
        """Finished shards as a set."""
        return frozenset(self.shard_names)

    @abstractmethod
    def quarantined(self) -> dict[str, str]:
        """Return the reason of each shard that the last run quarantined, by its name."""

    @abstractmethod
    def records(self, skip: Container[str] = ()) -> Iterator[CommitRecord]:
        """Yield the commits of the finished shards in the order of the run, with only a few in memory.

        Args:
            skip: shards whose commits are not read.
        """

    @abstractmethod
    def record(self, shard: str) -> CommitRecord:
        """Return the present commit of one finished shard."""

    @abstractmethod
    def count_degenerate(self, method: str, commit: CommitRecord) -> int:
        """Return the number of maps of a method in a shard that are constant or not finite.

        Args:
            method: name of the method.
            commit: own commit of the shard.
        """

    @abstractmethod
    def parts_of(self, shard: str, methods: Sequence[str]) -> dict[str, str]:
        """Return the hash of what one shard has elsewhere, with some of the methods, by the ``run_hash`` of that run.

        Args:
            shard: name of the shard.
            methods: names of methods.
        """

    @abstractmethod
    def has_parts(self, shard: str, parts: Mapping[str, str]) -> bool:
        """Return whether one shard has the same maps elsewhere, as ``parts_of`` returned them."""

    @abstractmethod
    def run_of(self, shard: str, method: str) -> str:
        """Return the ``run_hash`` of the run that made the maps of a method in one shard; empty if there are none."""

    @abstractmethod
    def locate(self, shard: str) -> Location:
        """Return where the maps of a shard were computed.

        Raises:
            UsageError: by several networks.
        """

    @abstractmethod
    def commits_of(self, shard: str) -> list[tuple[Location, CommitRecord]]:
        """Return the commit of a shard, and those of the parts that have methods of it; each with its place.

        Raises:
            UsageError: its maps are of several networks.
        """

    def products(self, folder: str) -> dict[str, ObjectStore]:
        """Return what lies in a folder of the atlas for products, by name; several atlases have no such folder.

        Args:
            folder: ``labels``, ``scores`` or ``audit``.
        """
        return {}

    @abstractmethod
    def dropped(self) -> frozenset[str]:
        """Return the methods that there were once, and are no more."""

    @abstractmethod
    def shard(self, shard: str) -> ShardMaps:
        """Return the rows of one finished shard.

        Raises:
            UsageError: the shard is not finished.
        """

    @abstractmethod
    def samples_of(self, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the sample table of one finished shard.

        Args:
            shard: short name of the shard.
            columns: names of columns; None: all.

        Raises:
            RunFailedError: the table is missing, damaged, or not the one that was committed.
        """

    @abstractmethod
    def read(self, array: str, rows: int | NDArray[np.int64], target: str) -> NDArray[Any]:
        """Return rows of an array for one target kind, as they are stored; they are not compared with a commit.

        Args:
            array: name of the array.
            rows: a row, or int64 [n].
            target: target kind.

        Raises:
            UsageError: there is no such array or target kind.
            RunFailedError: the array cannot be read.
        """

    @property
    def atlases(self) -> Sequence["MapReader"]:
        """The atlases that are joined; of one alone, itself."""
        return (self,)

    @property
    def gaps(self) -> tuple[str, ...]:
        """Numbers of shards that lie between those of two joined atlases, as ranges of names; no atlas has them."""
        return ()

    @property
    def networks(self) -> Mapping[str, "MapReader"]:
        """Atlases of other networks, or methods, that are joined, by the name in front of their methods; else none."""
        return {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on images that were left out because not all joined atlases have them."""
        return ()

    def frame(self, method: str) -> Frame:
        """Return how the network of a method sees images."""
        return Frame.of(self.run)

    def check_classes(self, target: str, methods: Sequence[str]) -> str | None:
        """Count the images for which joined atlases explain different classes, in a sentence; None if there are none.

        Args:
            target: the target.
            methods: that are used.

        Raises:
            UsageError: these classes are labels, or texts, which must be the same.
        """
        return None

    def atlas_of(self, shard: str) -> str:
        """Return the ``run_hash`` of the atlas that has a shard, where several are joined; else nothing."""
        return ""

    def of_shard(self, shard: str) -> Self:
        """Return the reader with all that one shard needs, to be sent to the worker that reads it."""
        return self

    def read_current(self, shard: str, read: Callable[[CommitRecord], T]) -> T:
        """Return what a function reads by the commit of a shard, and again if that is replaced meanwhile.

        Args:
            shard: short name of the shard.
            read: the function.
        """
        while True:
            with suppress(ShardReplacedError):
                return read(self.record(shard))

    def statuses(self) -> Counter[str]:
        """Return the number of samples of the finished shards by status."""
        total: Counter[str] = Counter()
        for record in self.records():
            total.update(record.statuses)
        return total

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

    def flag(self, key: str | int, method: str, target: str = "label") -> Flag:
        """Return the degeneracy of one map.

        Args:
            key: key of the sample, or its row.
            method: name of the method.
            target: target kind.

        Raises:
            UsageError: see ``map``.
        """
        row = self._find_row(key, target)
        flag = Flag(int(self.read(flag_name(method), row, target)))
        isolated = flag is Flag.OK and is_isolated(self.read(method, row, target).astype(np.float32))
        return Flag.ISOLATED if isolated else flag

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
            url = self.url
            raise UsageError(f"{url}: has no finished shard yet; run it first: vitatlas run {url}")
        return names

    @cached_property
    def _index(self) -> pa.Table:
        return self.samples(["row", "key", "status", "error", "labels"])

    def _find_row(self, key: str | int, target: str) -> int:
        column = "row" if isinstance(key, int) else "key"
        samples = self._index.filter(pc.equal(self._index[column], key))
        if not len(samples):
            raise UsageError(f"{self.url}: has no sample {key!r} in its finished shards")
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
