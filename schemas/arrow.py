"""Arrow columns: types that several tables share, and their descriptions."""

import pyarrow as pa

CATEGORY = pa.dictionary(pa.int32(), pa.string())
"""Type of text columns with few distinct values."""

_DESCRIPTION = b"description"


def column(name: str, type: pa.DataType, description: str) -> pa.Field:  # noqa: A002
    """Return an Arrow field without nulls, with a description in its metadata.

    Args:
        name: name of the column.
        type: Arrow type of its values.
        description: one phrase for readers of the table, without a full stop.
    """
    return pa.field(name, type, nullable=False, metadata={_DESCRIPTION: description})


def optional(name: str, type: pa.DataType, description: str) -> pa.Field:  # noqa: A002
    """Return a column that may have nulls; see ``column``."""
    return column(name, type, description).with_nullable(True)


def schema(*columns: pa.Field) -> pa.Schema:
    """Return the schema of a table with these columns."""
    return pa.schema(columns)


def description(field: pa.Field) -> str:
    """Return the description of a field; empty where it has none."""
    return (field.metadata or {}).get(_DESCRIPTION, b"").decode()


def without_descriptions(schema: pa.Schema) -> pa.Schema:
    """Return a schema whose fields have no metadata, as it is written to files."""
    return pa.schema([field.remove_metadata() for field in schema], schema.metadata)
