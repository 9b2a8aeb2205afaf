"""The driver of derived products: labels, scores, metrics, audit tables and exports, all made shard by shard."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Generic, TypeVar

from pipeline.run.execution import ComputeOptions
from pipeline.run.parallel_map import parallel_map
from pipeline.store import Lease, ObjectStore
from pipeline.store.derived import (
    CommittedShards,
    ProductStore,
    check_output_dir,
    content_hash,
    list_stale,
    load_completed,
    read_commit,
    remove_shard,
)
from pipeline.store.lease import check_lease
from pipeline.utils.concurrency import concurrent_map
from pipeline.utils.terminal import echo
from schemas.base import Record
from schemas.commits import DerivedCommit, ObjectRecord
from schemas.errors import ShardReplacedError
from schemas.layout import ABOUT, commit_object

Source = TypeVar("Source", bound=CommittedShards)
Input = TypeVar("Input")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ShardTask(Generic[Source, Input]):
    """One shard of a product that is to be computed.

    Attributes:
        source: what the product is derived from, an atlas as a rule.
        objects: output folder of the product.
        shard: short name of the shard.
        content_hash: hash of its maps and samples.
        data: its element of ``DerivedProduct.inputs``.
        previous: its commit, to which items are to be added; None if all of the shard is to be made.
        previous_items: items of the last commit of the shard, whatever it was made from; without one, of other shards.
    """

    source: Source
    objects: ObjectStore
    shard: str
    content_hash: str
    data: Input
    previous: DerivedCommit | None
    previous_items: tuple[str, ...]


@dataclass(frozen=True)
class ShardResult:
    """What was computed of one shard; the fields are those of ``DerivedCommit``."""

    objects: tuple[ObjectRecord, ...]
    counts: dict[str, int]
    items: tuple[str, ...] = ()
    statistics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DerivedProduct(ABC, Generic[Source, Input, Result]):
    """A product that is derived shard by shard, from an atlas as a rule. It stays in the process that calls ``derive``.

    Attributes:
        about_object: name of the object that holds ``about``.
        may_differ: fields of ``about`` in which the settings in the output folder may differ.
        keeps_commits: the commit of a shard stays valid while further items are added. Otherwise it is removed first,
            because its objects are overwritten.
        title: what is done, for the progress bar.
        function: picklable; computes one shard and writes its objects.
        source: what the product is derived from.
        objects: output folder.
        about: settings of the product; commits made with other settings are made again.
        methods: whose maps are read; a commit names the parts of the atlas that have them.
        uses_gpu: take a GPU for each shard, where the cluster has any.
    """

    about_object: ClassVar[str] = ABOUT
    may_differ: ClassVar[Container[str]] = ()
    keeps_commits: ClassVar[bool] = False
    title: str
    function: Callable[[ShardTask[Source, Input]], ShardResult]
    source: Source
    objects: ObjectStore
    about: Record
    methods: tuple[str, ...] = field(kw_only=True)
    uses_gpu: bool = field(default=False, kw_only=True)

    def check_output(self) -> None:
        """Make sure that the output folder is empty, or holds the same product.

        Raises:
            UsageError: it holds something else.
        """
        check_output_dir(self.objects, self.about_object, self.about, self.may_differ)

    @property
    def shards(self) -> Sequence[str]:
        """Shards that the product is made of."""
        return self.source.shard_names

    def is_complete(self, commit: DerivedCommit) -> bool:
        """Return whether a valid commit has all that is requested."""
        return True

    def remove_summary(self) -> None:
        """Remove what ``finish`` writes. It is called before any shard is removed or made anew."""

    def source_of(self, shard: str) -> Source:
        """Return ``source`` with all that one of its shards needs, which is sent to the worker."""
        return self.source

    def inputs(self, shards: Sequence[str]) -> Iterable[Input | None]:
        """Return what is sent along with each of the pending shards."""
        return [None] * len(shards)

    @abstractmethod
    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> Result:
        """Write what is made of all shards together.

        Args:
            commits: of all ``shards``, by name.
            objects: the output folder, which keeps records of what is written.
        """


def derive(product: DerivedProduct[Source, Input, Result], options: ComputeOptions = ComputeOptions()) -> Result:
    """Make a product in its output folder. Shards that are committed are not computed again.

    Raises:
        UsageError: the folder holds something else.
        RunFailedError: another run is writing to it or has taken it over, or a process died.
    """
    product.check_output()
    with write_product(product.objects, product.about_object, product.about) as objects:
        commits = derive_shards(product, options, objects.last, objects.lease)
        objects.record_commits(commits.values())
        check_lease(objects, objects.lease.holder)
        return product.finish(commits, objects)


@contextmanager
def write_product(objects: ObjectStore, about_object: str, about: Record) -> Iterator[ProductStore]:
    """Hold the lease of an output folder, write the settings first, and the record of all that was written last.

    Args:
        objects: output folder, which holds nothing else.
        about_object: name of the object that holds ``about``.
        about: settings of the product.

    Yields:
        The output folder, which keeps records of what is written.

    Raises:
        RunFailedError: another run is writing to it or has taken it over.
    """
    with Lease(objects) as lease:
        store = ProductStore(objects, lease)
        store.put(about_object, about.to_bytes())
        yield store
        store.remove_temp_files()
        check_lease(store, lease.holder)
        store.write_record()


def derive_shards(
    product: DerivedProduct[Source, Input, Result], options: ComputeOptions, recorded: Mapping[str, str], lease: Lease
) -> dict[str, DerivedCommit]:
    """Compute the pending shards of a product whose lease is held, and return the commits of all its shards.

    Args:
        product: the product.
        options: where it is computed.
        recorded: SHA-256 of its commits by their path, as the last finished command recorded them.
        lease: of the product, or of the one that it is a part of.
    """
    objects, shards = product.objects, product.shards
    stale = list_stale(objects, frozenset(shards))
    valid = load_completed(objects, product.source, product.about.digest(), recorded, partial(echo, err=True))
    candidates = [valid[shard] for shard in shards if shard in valid]
    complete = concurrent_map(product.is_complete, candidates)
    commits = {commit.shard: commit for commit, is_complete in zip(candidates, complete, strict=True) if is_complete}
    pending = [shard for shard in shards if shard not in commits]
    if stale or pending:
        product.remove_summary()
    for shard in stale:
        remove_shard(objects, shard)
    settings = product.function, product.methods, objects.url, product.about.digest(), product.keeps_commits
    work = partial(_derive_shard, *settings, lease.objects.url, lease.holder)
    items = tuple(dict.fromkeys(item for commit in valid.values() for item in commit.items))
    inputs = zip(pending, product.inputs(pending), strict=True)
    tasks = [(shard, product.source_of(shard), data, shard in valid, items) for shard, data in inputs]
    module = type(product).__module__
    for commit in parallel_map(work, tasks, product.title, options.address, product.uses_gpu, module):
        lease.check()
        commits[commit.shard] = commit
    return commits


def _derive_shard(
    function: Callable[[ShardTask[Source, Input]], ShardResult],
    methods: Sequence[str],
    url: str,
    settings_hash: str,
    keeps_commits: bool,
    lease_url: str,
    lease: str,
    task: tuple[str, Source, Input, bool, tuple[str, ...]],
) -> DerivedCommit:
    shard, source, data, valid, items = task
    objects, leased = ObjectStore(url), ObjectStore(lease_url)
    while True:
        check_lease(leased, lease)
        content, parts = content_hash(source.record(shard)), source.parts_of(shard, methods)
        last = read_commit(objects, shard)
        previous = last if last and valid and (last.parent, last.settings_hash) == (content, settings_hash) else None
        if last and not previous:
            for record in last.objects:
                objects.delete(record.path)
        if not keeps_commits:
            objects.delete(commit_object(shard))
        with suppress(ShardReplacedError):
            result = function(ShardTask(source, objects, shard, content, data, previous, last.items if last else items))
            # Else the maps may be those of another commit.
            if (content_hash(source.record(shard)), source.parts_of(shard, methods)) == (content, parts):
                break
    runs = {method: source.run_of(shard, method) for method in methods}
    commit = DerivedCommit(
        shard=shard,
        parent=content,
        settings_hash=settings_hash,
        parts=(previous.parts if previous else {}) | parts,
        runs=(previous.runs if previous else {}) | runs,
        atlas=source.atlas_of(shard),
        **vars(result),
    )
    check_lease(leased, lease)
    objects.put(commit_object(shard), commit.to_bytes())
    return commit
