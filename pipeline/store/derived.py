"""Commits of derived products: what is made of an atlas shard by shard, such as labels, scores and audit tables."""

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.store.lease import Lease
from pipeline.store.object_store import ObjectStore
from pipeline.utils.concurrency import concurrent_map
from schemas.base import Record, differences, sha256
from schemas.commits import DerivedCommit, ObjectRecord, ProductRecord
from schemas.errors import UsageError
from schemas.layout import COMMITS, PRODUCT, RUN, commit_object

R = TypeVar("R", bound=Record)


class ShardContent(Protocol):
    """The content of one shard: its objects, as a commit names them."""

    @property
    def shard(self) -> str:
        """Short name of the shard."""

    @property
    def objects(self) -> tuple[ObjectRecord, ...]:
        """Everything that it consists of."""


class CommittedShards(Protocol):
    """What a product can be derived from: an atlas, or files in parts that take the place of shards."""

    @property
    def shard_names(self) -> Sequence[str]:
        """Names of the shards, in order."""

    @property
    def committed(self) -> Collection[str]:
        """The same names."""

    def record(self, shard: str) -> ShardContent:
        """Return the present content of a shard."""

    def records(self, skip: Container[str] = ()) -> Iterable[ShardContent]:
        """Return the present contents of all shards but the skipped ones, in order."""

    def parts_of(self, shard: str, methods: Sequence[str]) -> dict[str, str]:
        """Return the present hash of one shard in each part with some of the methods, by the part's ``run_hash``.

        Args:
            shard: name of the shard.
            methods: whose maps are read.
        """

    def has_parts(self, shard: str, parts: Mapping[str, str]) -> bool:
        """Return whether one shard has the same maps in these parts, as ``parts_of`` returned them."""

    def run_of(self, shard: str, method: str) -> str:
        """Return the ``run_hash`` of the run that made the maps of a method in one shard; empty if there are none."""

    def atlas_of(self, shard: str) -> str:
        """Return the ``run_hash`` of the atlas that has a shard, where several are joined; else nothing."""


def has_same_maps(source: CommittedShards, commit: DerivedCommit) -> bool:
    """Return whether a source has the maps that a commit was made from, but for those in its own commit of the shard.

    A method that was dropped and added again, such as with another artifact, has other maps.
    """
    shard = commit.shard
    same_runs = all(source.run_of(shard, method) == run_hash for method, run_hash in commit.runs.items())
    return same_runs and source.has_parts(shard, commit.parts)


def content_hash(commit: ShardContent) -> str:
    """Return the hash of the objects of one shard, whenever and wherever they were made."""
    return sha256("\n".join(f"{record.path} {record.sha256}" for record in commit.objects).encode())


def check_output_dir(objects: ObjectStore, about_object: str, about: R, may_differ: Container[str] = ()) -> R | None:
    """Make sure that a folder is empty, or holds the same product.

    Args:
        objects: the folder.
        about_object: name of the object that holds the settings of the product; it is written first.
        about: settings of the product that will be written.
        may_differ: fields of ``about`` that may differ.

    Returns:
        The settings in the folder; None where there are none.

    Raises:
        UsageError: the folder holds an atlas or another product, which must not be overwritten.
    """
    fix = "name another --out, or remove it"
    if objects.exists(RUN):
        raise UsageError(f"{objects.url}: holds an atlas; name another --out")
    if not objects.exists(about_object):
        if commits := objects.list(COMMITS):
            raise UsageError(
                f"{objects.url}: holds something else, whose {COMMITS}/{commits[0]} would be overwritten; {fix}"
            )
        return None
    try:
        previous = type(about).read(objects.get(about_object), about_object)
    except UsageError as error:
        raise UsageError(f"{objects.url}: holds something else ({error}); {fix}") from None
    changes = differences(_without(previous, may_differ), _without(about, may_differ))
    if changes:
        raise UsageError(f"{objects.url}: holds something else ({changes[0]}); {fix}")
    return previous


def _without(record: Record, fields: Container[str]) -> dict[str, object]:
    return {name: value for name, value in record.model_dump(mode="json").items() if name not in fields}


def read_commit(objects: ObjectStore, shard: str) -> DerivedCommit | None:
    """Return the commit of a shard; None where there is none that can be read."""
    try:
        return _parse_commit(shard, objects.get(commit_object(shard)))
    except FileNotFoundError:
        return None


def _parse_commit(shard: str, data: bytes) -> DerivedCommit | None:
    try:
        return DerivedCommit.read(data, commit_object(shard))
    except UsageError:  # torn, or of another version: as good as none
        return None


class ProductStore(ObjectStore):
    """Folder of a derived product while it is made: it keeps the records of what is written, for ``product.json``.

    Args:
        objects: the folder. The record of the last finished command is removed: until the next is written, the product
            is unfinished.
        lease: under which it is made.

    Attributes:
        last: SHA-256 of what the last finished command recorded, by path.
    """

    def __init__(self, objects: ObjectStore, lease: Lease) -> None:
        vars(self).update(vars(objects))
        self.lease = lease
        self._records: dict[str, ObjectRecord] = {}
        product = read_product(self)
        self.last = {record.path: record.sha256 for record in product.objects} if product else {}
        self.delete(PRODUCT)

    def put(self, name: str, data: bytes) -> ObjectRecord:
        return self._keep(super().put(name, data))

    def put_file(self, name: str, path: Path) -> ObjectRecord:
        return self._keep(super().put_file(name, path))

    def _keep(self, record: ObjectRecord) -> ObjectRecord:
        self._records[record.path] = record
        return record

    def record_commits(self, commits: Iterable[DerivedCommit], folder: str = "") -> None:
        """Keep the records of commits, which other processes may have written.

        Args:
            commits: of the shards of the product.
            folder: path of their folder in the product, with a slash at its end.
        """
        for commit in commits:
            path, data = f"{folder}{commit_object(commit.shard)}", commit.to_bytes()
            self._keep(ObjectRecord(path=path, size=len(data), sha256=sha256(data)))

    def write_record(self) -> None:
        """Write ``product.json``, which makes the product finished."""
        records = tuple(self._records[path] for path in sorted(self._records))
        super().put(PRODUCT, ProductRecord(objects=records).to_bytes())


def read_product(objects: ObjectStore) -> ProductRecord | None:
    """Return the record of a product; None where there is none that can be read."""
    try:
        return ProductRecord.read(objects.get(PRODUCT), PRODUCT)
    except (FileNotFoundError, UsageError):
        return None


def load_completed(
    objects: ObjectStore,
    source: CommittedShards,
    settings_hash: str,
    recorded: Mapping[str, str],
    log: Callable[[str], None],
) -> dict[str, DerivedCommit]:
    """Return the valid commits by shard: with these settings, from the present maps, and all objects are as committed.

    Args:
        objects: folder of the product.
        source: what it is derived from.
        settings_hash: hash of the settings of the product.
        recorded: SHA-256 of commits by their path, where the last finished command recorded them.
        log: called with a sentence for each commit that has changed and each shard with an object that has.
    """
    present = {name.removesuffix(".json") for name in objects.list(COMMITS)}
    shards = [shard for shard in source.shard_names if shard in present]
    valid = []
    # A few of either at a time: a commit names every object of its shard, and there may be very many.
    contents = objects.read([commit_object(shard) for shard in shards])
    for data, content in zip(contents, source.records(skip=set(source.committed) - present), strict=True):
        commit = _parse_commit(content.shard, data)
        name = commit_object(content.shard)
        if recorded.get(name, sha256(data)) != sha256(data) or (commit and commit.to_bytes() != data):
            log(f"{objects.url}/{name}: has changed since it was written; its shard is made again")
            continue
        wanted = (content.shard, content_hash(content), settings_hash, source.atlas_of(content.shard))
        if commit is None or (commit.shard, commit.parent, commit.settings_hash, commit.atlas) != wanted:
            continue
        if has_same_maps(source, commit):
            valid.append(commit)
    differences_by_commit = concurrent_map(partial(_first_difference, objects), valid)
    completed = {}
    for commit, difference in zip(valid, differences_by_commit, strict=True):
        if difference is None:
            completed[commit.shard] = commit
        else:
            log(f"{objects.url}/{difference}; its shard is made again")
    return completed


def _first_difference(objects: ObjectStore, commit: DerivedCommit) -> str | None:
    return next(filter(None, map(objects.find_difference, commit.objects)), None)


def list_stale(objects: ObjectStore, shards: Container[str]) -> list[str]:
    """Return the committed shards of a product that are not among the wanted ones."""
    committed = [name.removesuffix(".json") for name in objects.list(COMMITS)]
    return [shard for shard in committed if shard not in shards]


def remove_shard(objects: ObjectStore, shard: str) -> None:
    """Remove the objects of a shard, then its commit."""
    commit = read_commit(objects, shard)
    for record in commit.objects if commit else ():
        objects.delete(record.path)
    objects.delete(commit_object(shard))
