"""Verify a derived product: every object is as it was written, and there is nothing else in its folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from pipeline.store.derived import content_hash, has_same_maps
from pipeline.store.drop import methods_of_product
from pipeline.store.map_reader import MapReader
from pipeline.store.object_store import ObjectStore
from pipeline.utils.atomic_write import is_temp_file
from pipeline.utils.concurrency import concurrent_map
from schemas.commits import DerivedCommit, ObjectRecord, ProductRecord
from schemas.errors import AtlasError, RunFailedError, UsageError
from schemas.layout import COMMITS, LEASE, PRODUCT


@dataclass
class ProductResult:
    """Result of the verification of a product.

    Attributes:
        objects: number of objects that were compared with their records.
        faults: one sentence per fault; it begins with the path of the object.
        strays: paths of objects in the folder that no record names.
        finished: the last command that made it came to its end.
        shards: number of shards that it has a commit of.
    """

    objects: int = 0
    faults: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    finished: bool = True
    shards: int = 0


def verify_product(
    objects: ObjectStore,
    atlas: MapReader | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ProductResult:
    """Compare everything in the folder of a product with its records, and list what belongs to none.

    Args:
        objects: the folder.
        atlas: what the product was made from, one or several that are joined, to find out whether its maps have changed
            since; None: not known.
        progress: called with the number of verified records and of all records.
    """
    result, expected = ProductResult(), {PRODUCT, LEASE}
    try:
        data = objects.get(PRODUCT)
        product = ProductRecord.read(data, PRODUCT)
        records = list(product.objects)
    except FileNotFoundError:
        result.finished, records = False, []
        commits = [f"{COMMITS}/{name}" for name in objects.list(COMMITS)]
    except UsageError as error:
        result.faults.append(f"{error}")
        return result
    else:
        result.faults += [f"{PRODUCT}: has been changed since it was written"] * (product.to_bytes() != data)
        commits = [record.path for record in records if _is_commit(record.path)]
        expected |= {record.path for record in records}
        result.objects += len(records)
        result.faults += filter(None, concurrent_map(partial(_difference, objects), records))
    result.shards = sum(path.startswith(f"{COMMITS}/") for path in commits)
    committed = concurrent_map(partial(_verify_commit, objects, atlas), commits)
    for done, (names, faults) in enumerate(committed, 1):
        result.objects += len(names)
        result.faults += faults
        expected |= names
        progress(done, len(commits))
    if atlas is not None and (gone := sorted(_dropped_methods(objects, atlas))):
        result.faults.append(f"was made from maps of {', '.join(gone)}, which were dropped; remove it")
    in_use = objects.exists(LEASE)
    unknown = (name for name, _ in objects.list_all() if name not in expected)
    result.strays += (name for name in unknown if not (in_use and is_temp_file(name)))
    return result


def _dropped_methods(objects: ObjectStore, atlas: MapReader) -> frozenset[str]:
    """Return the methods that a product was made from and that the atlas has no more."""
    dropped = atlas.dropped()
    return dropped & methods_of_product(objects) if dropped else frozenset()


def _is_commit(path: str) -> bool:
    return path.rpartition("/")[0].rpartition("/")[2] == COMMITS


def _difference(objects: ObjectStore, record: ObjectRecord) -> str | None:
    try:
        return objects.find_difference(record)
    except RunFailedError as error:  # the name leads out of the folder
        return f"{error}"


def _verify_commit(objects: ObjectStore, atlas: MapReader | None, name: str) -> tuple[set[str], list[str]]:
    """Return the objects that a commit names, and the faults of the commit and of these objects."""
    folder = name.rpartition("/")[0].removesuffix(COMMITS)
    try:
        commit = DerivedCommit.read(objects.get(name), name)
    except FileNotFoundError:
        return set(), []  # its record says so
    except AtlasError as error:
        return set(), [f"{error}"]
    records = [record.model_copy(update={"path": f"{folder}{record.path}"}) for record in commit.objects]
    faults = filter(None, map(partial(_difference, objects), records))
    # The commits in an inner folder are of another atlas, the one that thresholds are tuned on.
    source = _source_faults(atlas, commit, name) if atlas is not None and not folder else iter(())
    return {record.path for record in records}, [*faults, *source]


def _source_faults(atlas: MapReader, commit: DerivedCommit, name: str) -> Iterator[str]:
    if commit.shard not in atlas.committed:
        yield f"{name}: was made from maps that the atlas does not have"
    elif commit.atlas != atlas.atlas_of(commit.shard):
        yield f"{name}: was made from maps of another atlas"
    elif content_hash(atlas.record(commit.shard)) != commit.parent:
        yield f"{name}: was made from other maps than the atlas has now"
    elif not has_same_maps(atlas, commit):
        yield f"{name}: was made from maps of a part, or another atlas, that is not there, or has others now"
