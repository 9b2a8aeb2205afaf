"""Tables as Parquet bytes, whole in memory, so that they are written like everything else."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.arrow import without_descriptions


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as Parquet, without the descriptions of its columns. Equal tables give equal bytes."""
    table = pa.Table.from_arrays(table.columns, schema=without_descriptions(table.schema))
    # A writer that is left open when something raises would publish a valid, short file.
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return bytes(buffer.getvalue().to_pybytes())


def from_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in Parquet bytes, or some columns of it.

    Raises:
        pa.ArrowInvalid, OSError: they are damaged.
    """
    # No threads: one of them may still hold the bytes when the interpreter ends, and aborts it.
    return pq.ParquetFile(pa.BufferReader(data)).read(None if columns is None else list(columns), use_threads=False)
