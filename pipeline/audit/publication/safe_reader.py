"""Objects of a folder that anybody may have written, read so that what cannot be is named."""

from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa

from pipeline.store import ObjectStore
from pipeline.store.parquet import from_parquet
from pipeline.utils.concurrency import concurrent_map
from schemas.errors import RunFailedError


class UnreadableError(Exception):
    """An object that is missing, or cannot be read; what depends on it is not looked at."""


def read_bytes(objects: ObjectStore, name: str) -> bytes:
    """An object.

    Raises:
        Unreadable: it is missing.
    """
    try:
        return objects.get(name)
    except FileNotFoundError:
        raise UnreadableError(f"{name}: is missing") from None
    except RunFailedError as error:  # the name leads out of the folder
        raise UnreadableError(f"{error}") from None


def read_table(objects: ObjectStore, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A table, or some columns of it.

    Raises:
        Unreadable: it is missing or damaged.
    """
    return _table(name, read_bytes(objects, name), columns)


def _table(name: str, data: bytes, columns: Sequence[str] | None) -> pa.Table:
    try:
        table = from_parquet(data, columns)
        table.validate(full=True)  # texts that are no UTF-8, for one, are no fault to Parquet
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableError(f"{name}: cannot be read ({type(error).__name__})") from None


def read_tables(objects: ObjectStore, folder: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The tables in a folder, one for each shard; see ``read_table``."""
    names = [f"{folder}/{name}" for name in objects.list(folder)]
    for name, data in zip(names, concurrent_map(partial(read_bytes, objects), names), strict=True):
        yield _table(name, data, columns)
