"""Tables and objects of the folder of an audit, which may come from anybody: which exist, and safe reading."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store import ObjectStore
from pipeline.store.parquet import from_parquet
from pipeline.utils.concurrency import concurrent_map
from schemas.audit_tables import TABLES, AuditTable
from schemas.errors import RunFailedError


class PublishedTable(NamedTuple):
    """A table that exists in a folder.

    Attributes:
        table: its definition.
        names: its objects, sorted.
        schema: its columns as they are stored.
        rows: number of rows in all its objects.
    """

    table: AuditTable
    names: tuple[str, ...]
    schema: pa.Schema
    rows: int


def find_tables(objects: ObjectStore) -> Iterator[PublishedTable]:
    """Yield the tables that exist in a folder, in the order of ``schemas.audit_tables.TABLES``."""
    names = [name for name, _ in objects.list_all()]
    for table in TABLES:
        # fnmatch alone would let a star match across folders.
        matches = tuple(
            name for name in names if fnmatchcase(name, table.files) and name.count("/") == table.files.count("/")
        )
        if matches:
            footers = list(concurrent_map(partial(_read_footer, objects), matches))
            rows = sum(footer.num_rows for footer in footers)
            yield PublishedTable(table, matches, footers[0].schema.to_arrow_schema(), rows)


def _read_footer(objects: ObjectStore, name: str) -> pq.FileMetaData:
    with objects.files.open(objects.path(name), "rb") as stream:
        return pq.read_metadata(stream)


def decoded_type(data_type: pa.DataType) -> pa.DataType:
    """Return the type of the values of a column without dictionary encoding."""
    return data_type.value_type if pa.types.is_dictionary(data_type) else data_type


def format_type(data_type: pa.DataType) -> str:
    """Return a readable name of a type: ``text``, ``int64``, ``list of float32``."""
    if pa.types.is_list(data_type):
        return f"list of {format_type(data_type.value_type)}"
    names = {pa.string(): "text", pa.float64(): "float64", pa.float32(): "float32", pa.bool_(): "true or false"}
    return names.get(decoded_type(data_type), str(decoded_type(data_type)))


class UnreadableError(Exception):
    """An object that is missing or cannot be read; what depends on it cannot be verified."""


def read_bytes(objects: ObjectStore, name: str) -> bytes:
    """Read an object.

    Args:
        objects: folder of the audit.
        name: path of the object in it.

    Raises:
        UnreadableError: it is missing.
    """
    try:
        return objects.get(name)
    except FileNotFoundError:
        raise UnreadableError(f"{name}: is missing") from None
    except RunFailedError as error:  # the name leads out of the folder
        raise UnreadableError(f"{error}") from None


def read_table(objects: ObjectStore, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some columns of it.

    Args:
        objects: folder of the audit.
        name: path of the table in it.
        columns: names of the columns; None is all.

    Raises:
        UnreadableError: it is missing or damaged.
    """
    return _parse_table(name, read_bytes(objects, name), columns)


def _parse_table(name: str, data: bytes, columns: Sequence[str] | None) -> pa.Table:
    try:
        table = from_parquet(data, columns)
        table.validate(full=True)  # Parquet itself accepts text that is not UTF-8
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableError(f"{name}: cannot be read ({type(error).__name__})") from None


def read_tables(objects: ObjectStore, folder: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Read the tables in a folder, one per shard.

    Args:
        objects: folder of the audit.
        folder: path of the tables in it.
        columns: names of the columns; None is all.

    Raises:
        UnreadableError: a table is missing or damaged.
    """
    names = [f"{folder}/{name}" for name in objects.list(folder)]
    for name, data in zip(names, concurrent_map(partial(read_bytes, objects), names), strict=True):
        yield _parse_table(name, data, columns)
