"""Is an audit what was published, and do its tables say what they were made from? Told from its files alone."""

import json
from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa

from pipeline.audit.exports import EXPORTERS
from pipeline.audit.publication.contents import decoded_type
from pipeline.audit.publication.croissant import CROISSANT_NAME
from pipeline.audit.publication.lineage import MAPS
from pipeline.audit.publication.manifest import verify_manifest
from pipeline.audit.publication.safe_reader import UnreadableError, read_bytes, read_table
from pipeline.audit.publication.verify_clusters import verify_clusters
from pipeline.audit.publication.verify_sums import verify_counts, verify_means, verify_summaries
from pipeline.store import ObjectStore
from pipeline.store.derived import content_hash
from pipeline.utils.concurrency import concurrent_map
from schemas.audit_records import AuditRecord
from schemas.audit_tables import TABLES
from schemas.base import sha256
from schemas.commits import DerivedCommit, ObjectRecord
from schemas.errors import UsageError
from schemas.layout import ABOUT, AUDIT, COMMITS, commit_object
from schemas.metrics import MetricsRecord

_FOLDERS: dict[str, type[AuditRecord] | type[MetricsRecord]] = {
    "": AuditRecord,
    "faithfulness/": MetricsRecord,
    "sanity/": MetricsRecord,
}
"""Folders with parts by shard, and what says what they were made by."""


def verify_audit(
    out: str, root: str | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[str]:
    """Check every object of an audit by the manifest, and every table by those that it was made from.

    Args:
        out: folder or URL of the audit.
        root, progress: see ``manifest.check``.

    Yields:
        A sentence for each fault, which begins with the path of the object. Of objects that are not as they were
        published nothing more is told, nor of tables as long as there is one that cannot be read.

    Raises:
        UsageError: there is no manifest, so that nothing was published there.
    """
    objects = ObjectStore(out)
    for looks in ((lambda _: iter(verify_manifest(out, root, progress)),), (_columns,), _LOOKS):
        faults = False
        for look in looks:
            try:
                for fault in look(objects):
                    faults = True
                    yield fault
            except UnreadableError as error:
                faults = True
                yield f"{error}"
        if faults:
            return


def _columns(objects: ObjectStore) -> Iterator[str]:
    """Tables can be read, and have the columns that they ought to have."""
    for table in TABLES:
        folder = table.files.rpartition("/")[0]
        names = [f"{folder}/{name}" for name in objects.list(folder)] if table.per_shard else [table.files]
        for name in names:
            if table.per_shard or objects.exists(name):
                try:
                    there = read_table(objects, name)
                except UnreadableError as error:
                    yield f"{error}"
                    continue
                for field in table.schema:
                    if (wrong := _wrong_column(there, field)) is not None:
                        yield f"{name}: {wrong}"


def _wrong_column(table: pa.Table, field: pa.Field) -> str | None:
    if field.name not in table.column_names:
        return f"has no column {field.name}"
    column = table[field.name]
    if decoded_type(column.type) != decoded_type(field.type):
        return f"column {field.name} is {column.type}, not {field.type}"
    return f"column {field.name} has gaps" if column.null_count and not field.nullable else None


def _commits(objects: ObjectStore) -> Iterator[str]:
    """Parts are what their records say."""
    for folder in (*_FOLDERS, *(f"{kind}/" for kind in EXPORTERS)):
        told = ((part.shard, each) for _, part in _records(objects, folder) for each in part.objects)
        yield from filter(None, concurrent_map(partial(_wrong_object, objects, folder), told))


def _wrong_object(objects: ObjectStore, folder: str, item: tuple[str, ObjectRecord]) -> str | None:
    shard, told = item
    try:
        data = read_bytes(objects, f"{folder}{told.path}")
    except UnreadableError as error:
        return f"{error}"
    if (len(data), sha256(data)) != (told.size, told.sha256):
        return f"{folder}{told.path}: is not what {folder}{commit_object(shard)} says"
    return None


def _records(objects: ObjectStore, folder: str = "") -> Iterator[tuple[bytes, DerivedCommit]]:
    names = [f"{folder}{COMMITS}/{file}" for file in objects.list(f"{folder}{COMMITS}")]
    for name, data in zip(names, concurrent_map(partial(read_bytes, objects), names), strict=True):
        try:
            yield data, DerivedCommit.read(data, name)
        except UsageError as error:
            raise UnreadableError(f"{error}") from None


def _lineage(objects: ObjectStore) -> Iterator[str]:
    """The chain ends in the parts of this very folder."""
    name = "lineage.parquet"
    rows = read_table(objects, name).to_pylist()
    maps = {row["shard"]: row["content_hash"] for row in rows if row["product"] == MAPS}
    told = {(row["product"], row["shard"]): row for row in rows}
    for folder in _FOLDERS:
        product = f"{AUDIT}/{folder}".rstrip("/")
        for data, part in _records(objects, folder):
            commit = f"{folder}{commit_object(part.shard)}"
            if maps.get(part.shard) != part.parent:
                yield f"{commit}: was made of other maps than {name} has"
            total = sum(each.size for each in part.objects)
            known = {
                "content_hash": content_hash(part),
                "commit_hash": sha256(data),
                "objects": len(part.objects),
                "bytes": total,
            }
            known |= {"parent_hash": part.parent, "settings_hash": part.settings_hash}
            row = told.pop((product, part.shard), {})
            for column, value in known.items():
                if row.get(column) != value:
                    yield f"{name}: {column} of {product}, {part.shard} is not that of its record"
                    break
    for product, shard in told:
        if product.partition("/")[0] == AUDIT:
            yield f"{name}: tells of {product}, {shard}, of which there is no record"


def _makers(objects: ObjectStore) -> Iterator[str]:
    """Parts were made by what the folder says that it was made by."""
    for folder, kind in _FOLDERS.items():
        name = f"{folder}{ABOUT}"
        records = [part for _, part in _records(objects, folder)]
        if not records and not objects.exists(name):
            continue
        try:
            settings_hash = kind.read(read_bytes(objects, name), name).digest()
        except UsageError as error:
            raise UnreadableError(f"{error}") from None
        for part in records:
            if part.settings_hash != settings_hash:
                yield f"{folder}{commit_object(part.shard)}: was made by something else than {name} says"


def _croissant(objects: ObjectStore) -> Iterator[str]:
    """Hashes are those of the files, and fields are columns of the tables."""
    try:
        described = json.loads(read_bytes(objects, CROISSANT_NAME))
        files = [(each["contentUrl"], each["sha256"]) for each in described["distribution"] if "sha256" in each]
    except (ValueError, KeyError, TypeError) as error:
        yield f"{CROISSANT_NAME}: cannot be read ({type(error).__name__})"
        return
    for name, told in files:
        try:
            if sha256(read_bytes(objects, name)) != f"sha256:{told}":
                yield f"{name}: is not what {CROISSANT_NAME} says"
        except UnreadableError as error:
            yield f"{error}"


_LOOKS: tuple[Callable[[ObjectStore], Iterator[str]], ...] = (
    verify_means,
    verify_summaries,
    verify_counts,
    _commits,
    _makers,
    _lineage,
    verify_clusters,
    _croissant,
)
