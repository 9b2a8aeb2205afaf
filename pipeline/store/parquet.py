"""Arrow tables to and from Parquet bytes in memory."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.arrow import without_descriptions


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as Parquet, without the descriptions of its columns. Equal tables give equal bytes."""
    table = pa.Table.from_arrays(table.columns, schema=without_descriptions(table.schema))
    # In memory: a file writer left open by an exception would leave a valid, short file.
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return bytes(buffer.getvalue().to_pybytes())


def from_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table in Parquet bytes.

    Args:
        data: a Parquet file.
        columns: names of columns; None: all.

    Raises:
        pa.ArrowInvalid: the data are damaged.
        OSError: the data are damaged.
    """
    # No threads: one may still hold the bytes when the interpreter exits, and abort it.
    return pq.ParquetFile(pa.BufferReader(data)).read(None if columns is None else list(columns), use_threads=False)
