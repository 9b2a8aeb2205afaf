"""Drop methods of an atlas: first from what its record says, then their objects."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.store import zarr_arrays
from pipeline.store.atlas import Atlas
from pipeline.store.commit_protocol import settle_all
from pipeline.store.derived import read_commit
from pipeline.store.lease import Lease
from pipeline.store.object_store import ObjectStore
from pipeline.store.run_file import part_stores, read_dropped, read_run
from pipeline.utils.concurrency import concurrent_map
from schemas.base import sha256
from schemas.commits import DroppedRecord
from schemas.errors import RunFailedError, UsageError
from schemas.layout import ABOUT, AUDIT, COMMITS, DROPPED, LABELS, LEASE, MAPS, POLICY, RUN, SCORES
from schemas.text import suggest


@dataclass(frozen=True)
class Drop:
    """What is dropped.

    Attributes:
        atlas: the atlas.
        methods: names of the methods.
        products: folders of products in the atlas that were made from their maps, each with these methods.
        objects: names and sizes of the objects that are deleted.
    """

    atlas: Atlas
    methods: tuple[str, ...]
    products: dict[str, tuple[str, ...]]
    objects: dict[str, int]


def plan_drop(url: str, methods: Sequence[str]) -> Drop:
    """Find out what would be dropped. Nothing is written.

    Args:
        url: of the atlas.
        methods: names of methods; those that were dropped before may have left objects.

    Raises:
        UsageError: there is no atlas or no such method, or none would be left.
    """
    atlas = Atlas.open(url)
    if atlas.own.extends:
        raise UsageError(f"{url}: is a part of an atlas; drop methods of the atlas")
    if not methods:
        raise UsageError("there is nothing to drop; name methods with --methods")
    places = (atlas, *_parts(atlas))
    present = {name for each in places for name in each.own.methods}
    gone = {name for store in (atlas.objects, *part_stores(atlas.objects)) for name in read_dropped(store)}
    for method in methods:
        if method not in present | gone:
            names = ", ".join(sorted(present))
            raise UsageError(f"{url}: has no maps of {method!r}; it has {names}{suggest(method, present)}")
    if present <= set(methods):
        raise UsageError(f"{url}: would have no method left; remove the atlas instead")
    objects = {name: size for each in places for name, size in _objects_of(atlas, each, methods)}
    return Drop(atlas, tuple(methods), find_products(atlas.objects, methods), objects)


def drop(url: str, methods: Sequence[str], leave_products: bool = False) -> Drop:
    """Drop methods of an atlas. Call it again to resume.

    ``dropped.json`` is written first: from then on no reader finds the methods. Then the metadata of the arrays that
    stay are written, and the objects of the others deleted; of a part without methods, all objects, but for the sample
    tables of one that added targets, which methods that were added later explain as well.

    Args:
        url: of the atlas.
        methods: names of methods.
        leave_products: also if products were made from their maps; these stay, and ``verify`` names them.

    Raises:
        UsageError: see ``plan_drop``; or there are such products.
        RunFailedError: a run writes to the atlas.
    """
    planned = _plan(url, methods, leave_products)
    with Lease(planned.atlas.objects):
        planned = _plan(url, methods, leave_products)  # of what was made before the lease was taken, too
        _drop_from(planned.atlas, methods)
        for part in _parts(planned.atlas):
            with Lease(part.objects):
                _drop_from(part, methods)
        for store in part_stores(planned.atlas.objects):
            if not store.exists(RUN):
                store.delete(LEASE)  # of a drop that was stopped before this one
                store.delete(DROPPED)
    return planned


def _plan(url: str, methods: Sequence[str], leave_products: bool) -> Drop:
    planned = plan_drop(url, methods)
    if planned.products and not leave_products:
        used = ", ".join(dict.fromkeys(method for methods in planned.products.values() for method in methods))
        raise UsageError(
            f"{url}: {', '.join(planned.products)}: made from maps of {used}; remove what was made from them first, or "
            "leave it with --leave-products"
        )
    return planned


def _parts(atlas: Atlas) -> list[Atlas]:
    """Return the parts of an atlas, also those without methods, whose objects are not deleted yet."""
    return [Atlas.open(store.url) for store in part_stores(atlas.objects) if store.exists(RUN)]


def _drop_from(atlas: Atlas, methods: Sequence[str]) -> None:
    """Drop methods of an atlas without its parts, or of a part."""
    objects, before = atlas.objects, read_dropped(atlas.objects)
    dropped = tuple(dict.fromkeys((*before, *(name for name in methods if name in atlas.own.methods))))
    if not dropped:
        return
    if dropped != before:
        _record(objects, DroppedRecord(methods=dropped))
    kept = read_run(objects).without(dropped)
    settle_all(objects, kept)
    if not kept.is_removed:
        zarr_arrays.create_arrays(objects, kept)
    names = [name for name, _ in _objects_of(atlas, atlas, dropped)]
    commits = [name for name in names if name.startswith(f"{COMMITS}/")]  # first: without them nothing is missed
    for group in (commits, names):
        for _ in concurrent_map(objects.delete, group):
            pass
    if kept.is_removed:
        objects.delete(RUN)


def _record(objects: ObjectStore, record: DroppedRecord) -> None:
    data = record.to_bytes()
    written = (
        objects.replace(DROPPED, data, sha256(objects.get(DROPPED)))
        if objects.exists(DROPPED)
        else objects.create(DROPPED, data)
    )
    if not written:
        raise RunFailedError(f"{objects.url}: another command drops methods; run the same command again")


def _objects_of(atlas: Atlas, each: Atlas, methods: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield names and sizes of the objects of methods in an atlas or one of its parts; names are those in the atlas."""
    folder = f"{prefix}/" if (prefix := atlas.folder_of(each)) else ""
    planned = read_run(each.objects)
    kept = planned.without({*read_dropped(each.objects), *methods})
    arrays = set(planned.arrays) - set(kept.arrays)
    for name, size in each.objects.list_all():
        path = name.split("/")
        if (kept.is_removed and name not in (RUN, DROPPED, LEASE)) or (path[0] == MAPS and path[1] in arrays):
            yield folder + name, size


def find_products(objects: ObjectStore, methods: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the folders of the products in an atlas that were made from maps of some methods, each with these.

    Args:
        objects: of the atlas.
        methods: names of methods.
    """
    folders: dict[str, set[str]] = defaultdict(set)
    for name, _ in objects.list_all():
        folder, _, record = name.rpartition("/")
        if name.partition("/")[0] in (LABELS, SCORES, AUDIT) and record in (ABOUT, POLICY):
            folders[folder].add(record)
    found = {}
    for folder in sorted(folders):
        used = methods_of_product(ObjectStore(f"{objects.url}/{folder}"))
        if common := tuple(method for method in methods if method in used):
            found[folder] = common
    return found


def methods_of_product(objects: ObjectStore) -> frozenset[str]:
    """Return the methods that a product was made from: those in its settings, and the items of its commits."""
    names: set[str] = set()
    for record in (ABOUT, POLICY):
        if objects.exists(record):
            names |= _named_methods(objects.get(record))
    for shard in objects.list(COMMITS):
        commit = read_commit(objects, shard.removesuffix(".json"))
        names |= set(commit.items if commit else ())
    return frozenset(names)


def _named_methods(data: bytes) -> set[str]:
    try:
        content: Any = json.loads(data)
    except ValueError:
        return set()
    settings = content.get("policy") if isinstance(content, dict) and "methods" not in content else content
    methods = settings.get("methods") if isinstance(settings, dict) else None
    return {name for name in methods if isinstance(name, str)} if isinstance(methods, list) else set()
