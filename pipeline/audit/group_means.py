"""Means over pictures, by class and over all classes, of tables that come one shard after another."""

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc


def compute_group_means(parts: Iterable[pa.Table], by: Sequence[str], told: str, schema: pa.Schema) -> pa.Table:
    """Means of the rows of all parts, of which one is in memory at a time. Equal parts give equal bytes.

    Args:
        parts: tables with the columns ``class``, those of ``by``, and those that are float64 in the schema.
        by: columns that name what is compared with what.
        told: column that is null in rows that say nothing.
        schema: ``by``, ``class``, a count of rows, a count of those that say nothing, and means; null of nothing.

    Returns:
        As the schema says: one row for each group and class, and one for each group with a null class, which is first.
    """
    names = [field.name for field in schema if pa.types.is_floating(field.type)]
    sums: pa.Table | None = None
    for part in parts:
        columns = {name: pc.cast(part[name], pa.string()) for name in by} | {"class": part["class"]}
        for name in names:
            values = pc.cast(part[name], pa.float64())
            columns[name] = pc.fill_null(values, 0.0)
            columns[f"{name} known"] = pc.cast(pc.is_valid(values), pa.int64())
        rows = pa.chunked_array([pa.repeat(pa.scalar(1, pa.int64()), len(part))])
        found = pa.table(columns | {"rows": rows, "told": pc.cast(pc.is_valid(part[told]), pa.int64())})
        sums = _sums(found if sums is None else pa.concat_tables([sums, found]), (*by, "class"))
    if sums is None:
        return schema.empty_table()
    over_all = _sums(sums.drop_columns("class"), by)
    over_all = over_all.append_column("class", pa.nulls(len(over_all), pa.int32()))
    both = pa.concat_tables([over_all.select(sums.column_names), sums])
    both = both.append_column("place", pc.fill_null(both["class"], -1))
    both = both.sort_by([(name, "ascending") for name in (*by, "place")])
    counts = [both["rows"], pc.subtract(both["rows"], both["told"])]
    values = [pc.divide(both[name], _or_null(both[f"{name} known"])) for name in names]
    return pa.table([*(both[name] for name in (*by, "class")), *counts, *values], names=schema.names).cast(schema)


def _sums(table: pa.Table, by: Sequence[str]) -> pa.Table:
    """Sums of all other columns by group, in the order in which groups first come."""
    others = [name for name in table.column_names if name not in by]
    # With threads floats would be added in any order.
    grouped = table.group_by(list(by), use_threads=False).aggregate([(name, "sum") for name in others])
    return grouped.rename_columns([name.removesuffix("_sum") for name in grouped.column_names]).select(
        table.column_names
    )


def _or_null(counts: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(pc.if_else(pc.greater(counts, 0), counts, None), pa.float64())
