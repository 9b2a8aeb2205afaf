"""``JoinedMethods``: atlases of the same images, as of several networks, read as one with the methods of all."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store.class_names import check_class_names
from pipeline.store.derived import content_hash
from pipeline.store.frame import Frame
from pipeline.store.joined_shard_maps import JoinedShardMaps, without_some
from pipeline.store.map_reader import Location, MapReader
from pipeline.store.match_images import NO_ROW, ImageMatch, Rows, match_images
from pipeline.store.matched_rows import MatchedRows, columns_of_target
from schemas.base import sha256
from schemas.commits import CommitRecord
from schemas.errors import UsageError
from schemas.run_record import RunRecord
from schemas.targets import is_text

SEPARATOR = ":"
"""Between the name of an atlas and that of a method."""


class JoinedMethods(MapReader):
    """Atlases of the same images. Shards, rows and sample tables are those of the first; a method is ``NAME:method``.

    Images are matched by key and by the hash of their bytes. The statuses of images that not all atlases have maps of
    are ``not_in_all``.

    Args:
        networks: atlases by name, two or more.
        subset: accept images that not all have.

    Raises:
        UsageError: an image is not in all of them, and ``subset`` is false, or none is; or their keys, orientation or
            classes are others.
    """

    def __init__(self, networks: Mapping[str, MapReader], subset: bool = False) -> None:
        self._networks = dict(networks)
        (self._name, self._first), *others = self._networks.items()
        for _, other in others:
            _check_alike(self._first, other)  # all of them before any is matched
        matches = {name: match_images(self._first, other) for name, other in others}
        self._notes = tuple(
            note
            for name, match in matches.items()
            for note in _report(self._first, self._networks[name], match, subset)
        )
        self._rows: dict[str, Mapping[str, Rows]] = {name: match.rows for name, match in matches.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("run", "_index")}  # large, and cached

    @property
    def networks(self) -> Mapping[str, MapReader]:
        return self._networks

    @property
    def atlases(self) -> tuple[MapReader, ...]:
        return tuple(atlas for reader in self._networks.values() for atlas in reader.atlases)

    @property
    def gaps(self) -> tuple[str, ...]:
        return tuple(gap for reader in self._networks.values() for gap in reader.gaps)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    @property
    def url(self) -> str:
        return ", ".join(f"{name} ({reader.url})" for name, reader in self._networks.items())

    @cached_property
    def run(self) -> RunRecord:
        return self._first.run.with_methods_of({name: reader.run for name, reader in self._networks.items()}, SEPARATOR)

    def of_shard(self, shard: str) -> Self:
        alone = copy(self)
        alone._rows = {name: {shard: rows[shard]} for name, rows in self._rows.items()}
        return alone

    @property
    def shard_names(self) -> tuple[str, ...]:
        return self._first.shard_names

    def quarantined(self) -> dict[str, str]:
        return self._first.quarantined()

    def records(self, skip: Container[str] = ()) -> Iterator[CommitRecord]:
        return self._first.records(skip)

    def record(self, shard: str) -> CommitRecord:
        return self._first.record(shard)

    def atlas_of(self, shard: str) -> str:
        return self._first.atlas_of(shard) or self._first.run.run_hash

    def count_degenerate(self, method: str, commit: CommitRecord) -> int:
        raise UsageError(f"{self.url}: shards of several networks have no commit in common; name one atlas")

    def locate(self, shard: str) -> Location:
        raise UsageError(f"{self.url}: maps of several networks are not of one place; name one atlas")

    def commits_of(self, shard: str) -> list[tuple[Location, CommitRecord]]:
        raise UsageError(f"{self.url}: shards of several networks have no commit in common; name one atlas")

    def parts_of(self, shard: str, methods: Sequence[str]) -> dict[str, str]:
        of_network: dict[str, list[str]] = {name: [] for name in self._networks}
        for method in methods:
            name, own = self._split(method)
            of_network[name].append(own)
        return {
            f"{name}{SEPARATOR}{run_hash}": digest
            for name, own_methods in of_network.items()
            for run_hash, digest in self._contents(name, shard, own_methods).items()
        }

    def _contents(self, name: str, shard: str, methods: Sequence[str]) -> dict[str, str]:
        """Return a hash of what a network has of the images of a shard, and one for each part with some methods."""
        if name == self._name:
            return self._first.parts_of(shard, methods)
        reader = self._networks[name]
        lines: dict[str, list[str]] = {reader.run.run_hash: []}  # it may have none of the images yet
        for other in self._shards_of(name, shard):
            lines[reader.run.run_hash].append(f"{other} {content_hash(reader.record(other))}")
            for run_hash, digest in reader.parts_of(other, methods).items():
                lines.setdefault(run_hash, []).append(f"{other} {digest}")
        return {run_hash: sha256("\n".join(of_run).encode()) for run_hash, of_run in lines.items()}

    def has_parts(self, shard: str, parts: Mapping[str, str]) -> bool:
        now = self.parts_of(shard, self.methods)
        return all(now.get(run_hash) == digest for run_hash, digest in parts.items())

    def run_of(self, shard: str, method: str) -> str:
        if method not in self.run.methods:
            return ""
        name, own = self._split(method)
        shards = [shard] if name == self._name else self._shards_of(name, shard)
        return ",".join(sorted({self._networks[name].run_of(other, own) for other in shards}))

    def _shards_of(self, name: str, shard: str) -> list[str]:
        """Return the shards of a network that have images of a shard of the first."""
        run, rows = self._networks[name].run, self._rows[name][shard]
        return [run.shards[index].name for index in np.unique(rows[rows != NO_ROW] // run.slot)]

    def dropped(self) -> frozenset[str]:
        return frozenset(
            f"{name}{SEPARATOR}{method}" for name, reader in self._networks.items() for method in reader.dropped()
        )

    def shard(self, shard: str) -> JoinedShardMaps:
        others = {name: (self._networks[name], rows[shard]) for name, rows in self._rows.items()}
        return JoinedShardMaps(self._name, self._first.shard(shard), others, SEPARATOR)

    def samples_of(self, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        samples = self._first.samples_of(shard, columns)
        return without_some(samples, [rows[shard] != NO_ROW for rows in self._rows.values()])

    def read(self, array: str, rows: int | NDArray[np.int64], target: str) -> NDArray[Any]:
        self.check_array(array, target)
        name, own = self._split(array)
        if name == self._name:
            return self._first.read(own, rows, target)
        index, ordinals = np.divmod(np.atleast_1d(rows), self.run.slot)
        matched = np.array(
            [self._rows[name][self.run.shards[i].name][ordinal] for i, ordinal in zip(index, ordinals, strict=True)]
        )
        if (matched == NO_ROW).any():
            raise UsageError(f"{self._networks[name].url}: has no map of an image with the row {rows} in the first")
        found = self._networks[name].read(own, matched, target)
        return found[0] if np.ndim(rows) == 0 else found

    def check_planned(self, target: str, methods: Iterable[str]) -> None:
        wanted = self._first.find_target(target)
        for method in methods:
            self._check_method(method)
            name, own = self._split(method)
            reader = self._networks[name]
            reader.check_planned(target, [own])
            if (found := reader.find_target(target)) != wanted:
                raise UsageError(f"{target}: is {wanted} in {self._first.url}, but {found} in {reader.url}")

    def frame(self, method: str) -> Frame:
        name, own = self._split(method)
        return self._networks[name].frame(own)

    def check_classes(self, target: str, methods: Sequence[str]) -> str | None:
        count, example, columns = 0, "", columns_of_target(target)
        used = {self._split(method)[0] for method in methods} & self._rows.keys()
        for shard in self.shard_names:
            samples = self._first.samples_of(shard, ["key", *columns])
            for name in sorted(used):
                matched = MatchedRows(self._networks[name], self._rows[name][shard])
                differ = matched.has_other_class(samples, self._first.run, target)
                count += int(differ.sum())
                if differ.any() and not example:
                    example = f"{samples['key'][int(differ.argmax())].as_py()} of {shard}, by {self._name} and {name}"
        if not count:
            return None
        if target.partition(":")[0] in ("label", "class") or is_text(target):
            raise UsageError(f"{self.url}: {count} images do not have the same {target} in all, such as {example}")
        return (
            f"the networks explain different classes, as {target}, of {count} images, such as {example}; these have no "
            "mask, and the status other_class"
        )

    def _split(self, array: str) -> tuple[str, str]:
        name, _, own = array.rpartition(SEPARATOR)
        return name, own


def _check_alike(first: MapReader, other: MapReader) -> None:
    """Refuse atlases whose keys, orientation or classes cannot be compared."""
    for field in ("key_separator", "exif"):
        one, another = (getattr(reader.run.spec, field) for reader in (first, other))
        if one != another:
            raise UsageError(f"{first.url} and {other.url}: spec.{field} is {one} in one and {another} in the other")
    if first.run.model.classes != other.run.model.classes:
        counts = f"{first.run.model.classes} classes in one and {other.run.model.classes} in the other"
        raise UsageError(f"{first.url} and {other.url}: have {counts}; join networks of the same classes")
    check_class_names(other.run.class_names, first.run.class_names, first.run.model.classes, first.url)


def _report(first: MapReader, other: MapReader, match: ImageMatch, subset: bool) -> Iterator[str]:
    """Yield a sentence for each kind of images that not both have.

    Raises:
        UsageError: there are some, and ``subset`` is false; or no image is in both.
    """
    changed = f"; {match.changed} of them are other images under the same key there" if match.changed else ""
    if not match.common:
        differences = first.run.differences_to(other.run)
        raise UsageError(
            f"{first.url} and {other.url}: no image is in both, by its key and the hash of its bytes{changed}; nor are "
            f"they of one run: {'; '.join(differences[:3]) or 'they have the same shards'}"
        )
    for rows, here, there, detail in ((match.missing, first, other, changed), (match.further, other, first, "")):
        if not len(rows):
            continue
        sentence = f"{len(rows)} images with maps in {here.url} have none in {there.url}"
        if not subset:
            index, ordinal = divmod(int(rows[0]), here.run.slot)
            key = here.samples_of(here.run.shards[index].name, ["key"])["key"][ordinal].as_py()
            raise UsageError(f"{sentence}, such as {key}{detail}{_overlap(first, other)}; leave them out with --subset")
        yield f"{sentence} and are left out{detail}"


def _overlap(first: MapReader, other: MapReader) -> str:
    """Return a clause on why two atlases of one run are no parts of one list of shards; empty for other atlases."""
    names = {shard.name for shard in other.run.shards}
    shared = next((shard.name for shard in first.run.shards if shard.name in names), None)
    if shared is None or first.run.differences_to(other.run):
        return ""
    return f"; they are of one run, but {shared} is a shard of both, so they are not read as parts of one list"
