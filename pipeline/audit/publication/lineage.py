"""From the bytes of the pictures to maps, masks and scores: which was made of which, by hashes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any, get_args

import pyarrow as pa

from pipeline.store import Atlas, ObjectStore
from pipeline.store.derived import content_hash
from pipeline.store.parquet import from_parquet
from pipeline.utils.concurrency import concurrent_map
from schemas.audit_tables import LINEAGE
from schemas.base import sha256
from schemas.commits import CommitRecord, DerivedCommit
from schemas.errors import UsageError
from schemas.layout import AUDIT, COMMITS, LABELS, SCORES, commit_object
from schemas.metrics import MetricSuite

MAPS = "maps"
"""Name of the product that an atlas is itself."""
FURTHER = "elsewhere"
"""Before the names of products that do not lie in the atlas."""
_ROWS = "labels"
"""Folder of the label tables of a folder of labels."""


def build_lineage_table(url: str, further: Sequence[str] = (), out: str | None = None) -> pa.Table:
    """What was made of what, as ``schemas.audit_tables.LINEAGE``, by shard and product.

    Args:
        url: of an atlas; labels and scores in it are found.
        further: folders or URLs of what was made of it elsewhere.
        out: of the audit.

    Raises:
        UsageError: something further is no product of an atlas.
        RunFailedError: a commit of the atlas cannot be read.
    """
    atlas = Atlas.open(url)
    rows = concurrent_map(partial(_of_shard, atlas, find_products(atlas, further, out)), atlas.shard_names)
    return pa.Table.from_pylist([row for found in rows for row in found], schema=LINEAGE)


def _of_shard(atlas: Atlas, made: Mapping[str, ObjectStore], shard: str) -> list[dict[str, Any]]:
    rows = [_row(atlas.objects, MAPS, atlas.record(shard), atlas.run.spec_hash, _pictures(atlas, shard))]
    for name, objects in made.items():
        part = _part(objects, shard)
        if isinstance(part, DerivedCommit):
            rows.append(_row(objects, name, part, part.settings_hash, part.parent))
    return rows


def find_lineage_faults(url: str, further: Sequence[str] = (), out: str | None = None) -> list[str]:
    """A sentence for each place where the chain is broken; each begins with the product.

    What is wrong may be that a shard was done again after labels had been made of it, or that labels are of other
    pictures than the atlas has. That objects are as their records say is for ``manifest.check``.

    Raises:
        UsageError, RunFailedError: see ``lineage``.
    """
    atlas = Atlas.open(url)
    return [
        f"{name}: {fault}"
        for name, objects in find_products(atlas, further, out).items()
        for faults in concurrent_map(partial(_faults, atlas, objects), atlas.shard_names)
        for fault in faults
    ]


def find_products(atlas: Atlas, further: Sequence[str], out: str | None) -> dict[str, ObjectStore]:
    """All that was made of an atlas, by name: a path in the atlas, ``audit`` and below, or ``elsewhere`` and below.

    Raises:
        UsageError: something further is no product of this atlas.
    """
    found = {}
    for folder in (LABELS, SCORES):
        for name in atlas.objects.list(folder):
            objects = ObjectStore(f"{atlas.objects.url}/{folder}/{name}")
            if objects.list(COMMITS):
                found[f"{folder}/{name}"] = objects
    for name in ("", *(f"/{kind}" for kind in get_args(MetricSuite))) if out is not None else ():
        objects = ObjectStore(f"{out}{name}")
        if objects.list(COMMITS):
            found[f"{AUDIT}{name}"] = objects
    for url in further:
        name = f"{FURTHER}/{PurePath(url).name}"  # not where it lies on this machine
        if name in found:
            raise UsageError(f"{url}: has the same name as another folder that was made of it; rename one of them")
        found[name] = ObjectStore(url)
        shards = {each.removesuffix(".json") for each in found[name].list(COMMITS)}
        if not shards:
            raise UsageError(f"{url}: has no {COMMITS} of shards; name a folder of labels, scores or audit tables")
        if shards.isdisjoint(atlas.committed):
            raise UsageError(
                f"{url}: has nothing of the shards of {atlas.objects.url}; name what was made of this atlas"
            )
    return found


def _part(objects: ObjectStore, shard: str) -> DerivedCommit | str | None:
    """The record of a shard; why it cannot be read; None where there is none, as nothing need be made of every shard."""
    try:
        return DerivedCommit.read(objects.get(commit_object(shard)), commit_object(shard))
    except FileNotFoundError:
        return None
    except UsageError as error:
        return f"{error}"


def _pictures(atlas: Atlas, shard: str) -> str:
    """Hash of the keys and encoded bytes of all pictures of a shard, in order."""
    samples = atlas.samples_of(shard, ["key", "image_sha256"])
    return sha256(json.dumps([samples[name].to_pylist() for name in samples.column_names]).encode())


def _row(
    objects: ObjectStore, product: str, record: CommitRecord | DerivedCommit, settings_hash: str, made_of: str
) -> dict[str, Any]:
    return {
        "product": product,
        "shard": record.shard,
        "settings_hash": settings_hash,
        "parent_hash": made_of,
        "content_hash": content_hash(record),
        "commit_hash": sha256(objects.get(commit_object(record.shard))),
        "objects": len(record.objects),
        "bytes": sum(each.size for each in record.objects),
    }


def _faults(atlas: Atlas, objects: ObjectStore, shard: str) -> list[str]:
    part = _part(objects, shard)
    if part is None:
        return []
    if isinstance(part, str):
        return [part]
    if part.shard != shard:
        return [f"{commit_object(shard)} is of shard {part.shard}"]
    if part.parent != content_hash(atlas.record(shard)):
        return [f"{shard} was made of other maps than the atlas has; make it again"]
    if any(each.path == f"{_ROWS}/{shard}.parquet" for each in part.objects):
        return list(_other_pictures(atlas, objects, shard))
    return []


def _other_pictures(atlas: Atlas, objects: ObjectStore, shard: str) -> Iterator[str]:
    columns = ["row", "key", "image_sha256"]
    try:
        data = objects.get(f"{_ROWS}/{shard}.parquet")
        labels = from_parquet(data, columns).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        yield f"{_ROWS}/{shard}.parquet cannot be read ({type(error).__name__}); make it again"
        return
    known = {row["row"]: row for row in atlas.samples_of(shard, columns).to_pylist()}
    for row in labels:
        if known.get(row["row"]) != row:
            yield f"{shard}: the label of {row['key']} (row {row['row']}) is of another picture than the atlas has there"
