"""Kinds of columns that several tables have."""

import pyarrow as pa

CATEGORY = pa.dictionary(pa.int32(), pa.string())
"""Text of which few values come again and again."""
