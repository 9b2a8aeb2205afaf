"""Verification of a published audit from its files alone: the manifest, and every table against its sources."""

import json
from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa

from pipeline.audit.exports import EXPORTERS
from pipeline.audit.publication.croissant import CROISSANT_NAME
from pipeline.audit.publication.lineage import MAPS
from pipeline.audit.publication.manifest import verify_manifest
from pipeline.audit.publication.published_tables import UnreadableError, decoded_type, read_bytes, read_table
from pipeline.audit.publication.verify_tables import verify_clusters, verify_counts, verify_means, verify_summaries
from pipeline.store import ObjectStore
from pipeline.store.derived import content_hash
from pipeline.utils.concurrency import concurrent_map
from schemas.audit_records import AuditSpec
from schemas.audit_tables import TABLES
from schemas.base import sha256
from schemas.commits import DerivedCommit, ObjectRecord
from schemas.errors import UsageError
from schemas.layout import ABOUT, AUDIT, COMMITS, commit_object
from schemas.metrics import MetricsSpec

_FOLDERS: dict[str, type[AuditSpec] | type[MetricsSpec]] = {
    "": AuditSpec,
    "faithfulness/": MetricsSpec,
    "sanity/": MetricsSpec,
}
"""Folders with commits, and the records of their settings."""


def verify_audit(
    out: str, root: str | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[str]:
    """Verify every object of an audit by the manifest, and every table against the tables that it was made from.

    Args:
        out: folder or URL of the audit.
        root: root that the publisher stated elsewhere, see ``verify_manifest``.
        progress: called with the number of verified objects and of all objects.

    Yields:
        A sentence for each fault; it begins with the path of the object. If objects differ from the manifest, or tables
        cannot be read, nothing else is verified.

    Raises:
        UsageError: there is no manifest, so nothing was published.
    """
    objects = ObjectStore(out)
    if faults := verify_manifest(out, root, progress):
        yield from faults
        return
    for verifiers in ((_verify_columns,), _VERIFIERS):
        has_faults = False
        for verifier in verifiers:
            try:
                for fault in verifier(objects):
                    has_faults = True
                    yield fault
            except (UnreadableError, UsageError) as error:
                has_faults = True
                yield f"{error}"
        if has_faults:
            return


def _verify_columns(objects: ObjectStore) -> Iterator[str]:
    """Yield faults of the columns of all tables, and tables that cannot be read."""
    for table in TABLES:
        folder = table.files.rpartition("/")[0]
        names = [f"{folder}/{name}" for name in objects.list(folder)] if table.per_shard else [table.files]
        for name in names:
            if table.per_shard or objects.exists(name):
                try:
                    stored = read_table(objects, name)
                except UnreadableError as error:
                    yield f"{error}"
                    continue
                for field in table.schema:
                    if (fault := _find_column_fault(stored, field)) is not None:
                        yield f"{name}: {fault}"


def _find_column_fault(table: pa.Table, field: pa.Field) -> str | None:
    if field.name not in table.column_names:
        return f"has no column {field.name}"
    column = table[field.name]
    if decoded_type(column.type) != decoded_type(field.type):
        return f"column {field.name} is {column.type}, not {field.type}"
    return f"column {field.name} has null values" if column.null_count and not field.nullable else None


def _verify_commits(objects: ObjectStore) -> Iterator[str]:
    """Yield objects that differ from their commits."""
    for folder in (*_FOLDERS, *(f"{kind}/" for kind in EXPORTERS)):
        records = ((commit.shard, record) for _, commit in _read_commits(objects, folder) for record in commit.objects)
        yield from filter(None, concurrent_map(partial(_find_object_fault, objects, folder), records))


def _find_object_fault(objects: ObjectStore, folder: str, item: tuple[str, ObjectRecord]) -> str | None:
    shard, record = item
    try:
        data = read_bytes(objects, f"{folder}{record.path}")
    except UnreadableError as error:
        return f"{error}"
    if (len(data), sha256(data)) != (record.size, record.sha256):
        return f"{folder}{record.path}: differs from {folder}{commit_object(shard)}"
    return None


def _read_commits(objects: ObjectStore, folder: str = "") -> Iterator[tuple[bytes, DerivedCommit]]:
    names = [f"{folder}{COMMITS}/{file}" for file in objects.list(f"{folder}{COMMITS}")]
    for name, data in zip(names, concurrent_map(partial(read_bytes, objects), names), strict=True):
        yield data, DerivedCommit.read(data, name)


def _verify_lineage(objects: ObjectStore) -> Iterator[str]:
    """Yield rows of the lineage that differ from the commits of this folder."""
    name = "lineage.parquet"
    rows = read_table(objects, name).to_pylist()
    maps = {row["shard"]: row["content_hash"] for row in rows if row["product"] == MAPS}
    row_by_key = {(row["product"], row["shard"]): row for row in rows}
    for folder in _FOLDERS:
        product = f"{AUDIT}/{folder}".rstrip("/")
        for data, commit in _read_commits(objects, folder):
            if maps.get(commit.shard) != commit.parent:
                yield f"{folder}{commit_object(commit.shard)}: was made of other maps than {name} has"
            expected = {
                "content_hash": content_hash(commit),
                "commit_hash": sha256(data),
                "objects": len(commit.objects),
                "bytes": sum(record.size for record in commit.objects),
                "parent_hash": commit.parent,
                "settings_hash": commit.settings_hash,
            }
            row = row_by_key.pop((product, commit.shard), {})
            for column, value in expected.items():
                if row.get(column) != value:
                    yield f"{name}: {column} of {product}, {commit.shard} differs from its commit"
                    break
    for product, shard in row_by_key:
        if product.partition("/")[0] == AUDIT:
            yield f"{name}: has a row of {product}, {shard}, which has no commit"


def _verify_settings(objects: ObjectStore) -> Iterator[str]:
    """Yield commits that were made with other settings than those of their folder."""
    for folder, record_type in _FOLDERS.items():
        name = f"{folder}{ABOUT}"
        commits = [commit for _, commit in _read_commits(objects, folder)]
        if not commits and not objects.exists(name):
            continue
        settings_hash = record_type.read(read_bytes(objects, name), name).digest()
        for commit in commits:
            if commit.settings_hash != settings_hash:
                yield f"{folder}{commit_object(commit.shard)}: was made with other settings than {name} has"


def _verify_croissant(objects: ObjectStore) -> Iterator[str]:
    """Yield files whose hash in the Croissant description differs."""
    try:
        description = json.loads(read_bytes(objects, CROISSANT_NAME))
        files = [(node["contentUrl"], node["sha256"]) for node in description["distribution"] if "sha256" in node]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        yield f"{CROISSANT_NAME}: cannot be read ({type(error).__name__})"
        return
    for name, digest in files:
        try:
            if sha256(read_bytes(objects, name)) != f"sha256:{digest}":
                yield f"{name}: differs from {CROISSANT_NAME}"
        except UnreadableError as error:
            yield f"{error}"


_VERIFIERS: tuple[Callable[[ObjectStore], Iterator[str]], ...] = (
    verify_means,
    verify_summaries,
    verify_counts,
    _verify_commits,
    _verify_settings,
    _verify_lineage,
    verify_clusters,
    _verify_croissant,
)
