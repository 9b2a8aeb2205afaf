"""What is in an audit's folder, for those who describe it: its card, and Croissant."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store import ObjectStore
from pipeline.utils.concurrency import concurrent_map
from schemas.audit_tables import TABLES, AuditTable


class PublishedTable(NamedTuple):
    """A table that is there.

    Attributes:
        table: what is known of it.
        names: its objects, sorted.
        schema: its columns as they really are.
        rows: in all its objects.
    """

    table: AuditTable
    names: tuple[str, ...]
    schema: pa.Schema
    rows: int


def find_tables(objects: ObjectStore) -> Iterator[PublishedTable]:
    """The tables of a folder that are there, in the order of ``schemas.audit_tables.TABLES``."""
    names = [name for name, _ in objects.walk()]
    for table in TABLES:
        # Not fnmatch's own idea of a path, in which a star takes in folders.
        found = tuple(
            name for name in names if fnmatchcase(name, table.files) and name.count("/") == table.files.count("/")
        )
        if found:
            footers = list(concurrent_map(partial(_footer, objects), found))
            yield PublishedTable(
                table, found, footers[0].schema.to_arrow_schema(), sum(each.num_rows for each in footers)
            )


def _footer(objects: ObjectStore, name: str) -> pq.FileMetaData:
    """What stands at the end of a table, of which no more is read."""
    with objects.files.open(objects.path(name), "rb") as stream:
        return pq.read_metadata(stream)


def decoded_type(kind: pa.DataType) -> pa.DataType:
    """Type of the values of a column, however they are encoded."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def format_type(kind: pa.DataType) -> str:
    """For people: ``text``, ``int64``, ``list of float32``."""
    if pa.types.is_list(kind):
        return f"list of {format_type(kind.value_type)}"
    names = {pa.string(): "text", pa.float64(): "float64", pa.float32(): "float32", pa.bool_(): "true or false"}
    return names.get(decoded_type(kind), str(decoded_type(kind)))
