"""Lineage: hashes that link encoded images, maps, and the labels, scores and tables that are derived from them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any, get_args

import pyarrow as pa

from pipeline.store import MapReader, ObjectStore
from pipeline.store.derived import content_hash, has_same_maps
from pipeline.store.parquet import from_parquet
from pipeline.utils.concurrency import concurrent_map
from schemas.audit_tables import LINEAGE
from schemas.base import sha256
from schemas.commits import CommitRecord, DerivedCommit
from schemas.errors import UsageError
from schemas.layout import AUDIT, COMMITS, LABELS, SCORES, commit_object
from schemas.metrics import MetricSuite

MAPS = "maps"
"""Name of the maps among the products of an atlas; with the name of the part behind a slash, of those in a part."""
EXTERNAL = "elsewhere"
"""Folder in the names of products outside of the atlas."""
_LABEL_TABLES = "labels"
"""Folder of the label tables in a folder of labels."""


def build_lineage_table(atlas: MapReader, lineage_dirs: Sequence[str] = (), out: str | None = None) -> pa.Table:
    """Return ``schemas.audit_tables.LINEAGE``, by shard and product.

    Args:
        atlas: the atlas; labels and scores in it are included.
        lineage_dirs: folders or URLs of products outside of the atlas.
        out: folder or URL of the audit.

    Raises:
        UsageError: an external folder is no product of the atlas.
        RunFailedError: a commit of the atlas cannot be read.
    """
    rows = concurrent_map(partial(_shard_rows, atlas, find_products(atlas, lineage_dirs, out)), atlas.shard_names)
    return pa.Table.from_pylist([row for shard_rows in rows for row in shard_rows], schema=LINEAGE)


def _shard_rows(atlas: MapReader, products: Mapping[str, ObjectStore], shard: str) -> list[dict[str, Any]]:
    images = _hash_images(atlas, shard)
    rows: list[dict[str, Any]] = []
    for place, maps in atlas.commits_of(shard):
        name = f"{MAPS}/{place.url.rpartition('/')[2]}" if rows else MAPS  # the first is the atlas itself
        rows.append(_row(ObjectStore(place.url), name, maps, place.run_hash, images))
    for name, objects in products.items():
        commit = _read_commit(objects, shard)
        if isinstance(commit, DerivedCommit):
            rows.append(_row(objects, name, commit, commit.settings_hash, commit.parent))
    return rows


def find_lineage_faults(atlas: MapReader, lineage_dirs: Sequence[str] = (), out: str | None = None) -> list[str]:
    """Return a sentence for each break of the chain; it begins with the product.

    A shard may have been computed again after labels were made from it, or labels may belong to other images than those
    in the atlas. Whether objects match their commits is verified by ``manifest.verify_manifest``.

    Args:
        atlas: the atlas.
        lineage_dirs: folders or URLs of products outside of the atlas.
        out: folder or URL of the audit.

    Raises:
        UsageError, RunFailedError: see ``build_lineage_table``.
    """
    return [
        f"{name}: {fault}"
        for name, objects in find_products(atlas, lineage_dirs, out).items()
        for faults in concurrent_map(partial(_shard_faults, atlas, objects), atlas.shard_names)
        for fault in faults
    ]


def find_products(atlas: MapReader, lineage_dirs: Sequence[str], out: str | None) -> dict[str, ObjectStore]:
    """Find all products of an atlas.

    Args:
        atlas: the atlas.
        lineage_dirs: folders or URLs of products outside of the atlas.
        out: folder or URL of the audit; None leaves it out.

    Returns:
        Their folders by name: a path in the atlas, ``audit`` and below, or ``elsewhere`` and below.

    Raises:
        UsageError: an external folder is no product of this atlas.
    """
    products = {}
    for folder in (LABELS, SCORES):
        for name, objects in atlas.products(folder).items():
            if objects.list(COMMITS):
                products[f"{folder}/{name}"] = objects
    for name in ("", *(f"/{kind}" for kind in get_args(MetricSuite))) if out is not None else ():
        objects = ObjectStore(f"{out}{name}")
        if objects.list(COMMITS):
            products[f"{AUDIT}{name}"] = objects
    for url in lineage_dirs:
        name = f"{EXTERNAL}/{PurePath(url).name}"  # not its local path
        if name in products:
            raise UsageError(f"{url}: has the same name as another product of the atlas; rename one of them")
        products[name] = ObjectStore(url)
        shards = {file.removesuffix(".json") for file in products[name].list(COMMITS)}
        if not shards:
            raise UsageError(f"{url}: has no {COMMITS}; name a folder of labels, scores or audit tables")
        if shards.isdisjoint(atlas.committed):
            raise UsageError(f"{url}: has no shard of {atlas.url}; name a product of this atlas")
    return products


def _read_commit(objects: ObjectStore, shard: str) -> DerivedCommit | str | None:
    """Return the commit of a shard; why it cannot be read; None where there is none, since shards may be left out."""
    try:
        return DerivedCommit.read(objects.get(commit_object(shard)), commit_object(shard))
    except FileNotFoundError:
        return None
    except UsageError as error:
        return f"{error}"


def _hash_images(atlas: MapReader, shard: str) -> str:
    """Return a hash of the keys and encoded bytes of all images of a shard, in order."""
    samples = atlas.samples_of(shard, ["key", "image_sha256"])
    return sha256(json.dumps([samples[name].to_pylist() for name in samples.column_names]).encode())


def _row(
    objects: ObjectStore, product: str, commit: CommitRecord | DerivedCommit, settings_hash: str, parent_hash: str
) -> dict[str, Any]:
    return {
        "product": product,
        "shard": commit.shard,
        "settings_hash": settings_hash,
        "parent_hash": parent_hash,
        "content_hash": content_hash(commit),
        "commit_hash": sha256(objects.get(commit_object(commit.shard))),
        "objects": len(commit.objects),
        "bytes": sum(record.size for record in commit.objects),
    }


def _shard_faults(atlas: MapReader, objects: ObjectStore, shard: str) -> list[str]:
    commit = _read_commit(objects, shard)
    if commit is None:
        return []
    if isinstance(commit, str):
        return [commit]
    if commit.shard != shard:
        return [f"{commit_object(shard)} is of shard {commit.shard}"]
    if commit.parent != content_hash(atlas.record(shard)):
        return [f"{shard} was made of other maps than the atlas has; make it again"]
    if commit.atlas != atlas.atlas_of(shard):
        return [f"{shard} was made of maps of another atlas; make it again"]
    if not has_same_maps(atlas, commit):
        return [f"{shard} was made of maps of a part that the atlas does not have; make it again"]
    if any(record.path == f"{_LABEL_TABLES}/{shard}.parquet" for record in commit.objects):
        return list(_label_faults(atlas, objects, shard))
    return []


def _label_faults(atlas: MapReader, objects: ObjectStore, shard: str) -> Iterator[str]:
    columns = ["row", "key", "image_sha256"]
    try:
        data = objects.get(f"{_LABEL_TABLES}/{shard}.parquet")
        labels = from_parquet(data, columns).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        yield f"{_LABEL_TABLES}/{shard}.parquet cannot be read ({type(error).__name__}); make it again"
        return
    samples = {row["row"]: row for row in atlas.samples_of(shard, columns).to_pylist()}
    for row in labels:
        if samples.get(row["row"]) != row:
            key, number = row["key"], row["row"]
            yield f"{shard}: the label of {key} (row {number}) belongs to another image than the atlas has there"
