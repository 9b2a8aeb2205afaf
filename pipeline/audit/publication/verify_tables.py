"""Verification of tables of an audit: means, summaries, counts, ranks and clusters agree with what they are made of."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audit.map_tables import SUMMARIES, compute_group_means
from pipeline.audit.publication.published_tables import read_table, read_tables
from pipeline.audit.shortcuts import MAX_MAPS
from pipeline.store import ObjectStore
from schemas.audit_records import AuditSpec
from schemas.layout import ABOUT
from schemas.samples import may_lack

_TOLERANCE = 1e-9
"""Relative; sums in another order differ by less."""
_CLASSES = pa.schema([pa.field("row", pa.int64(), nullable=False), pa.field("class", pa.int32(), nullable=False)])
_Key = tuple[Any, ...]


def verify_means(objects: ObjectStore) -> Iterator[str]:
    """Yield faults of the tables of means: they must be the means of the tables of images and pairs."""
    for table, (folder, keys, defined, schema) in SUMMARIES.items():
        name, expected = f"{table}.parquet", compute_group_means(read_tables(objects, folder), keys, defined, schema)
        yield from _compare(name, read_table(objects, name), expected, (*keys, "class"), f"the mean over {folder}/")


def verify_summaries(objects: ObjectStore) -> Iterator[str]:
    """Yield faults of the summaries of metrics: they must be those of the stored values."""
    for folder in ("faithfulness", "sanity"):
        if objects.list(folder):
            from pipeline.metrics.summary import summarize  # torch, which verification alone does not need

            name = f"{folder}/summary.parquet"
            summary = read_table(objects, name)
            values = f"{folder}/values"
            directions = dict(zip(summary["metric"].to_pylist(), summary["better"].to_pylist(), strict=True))
            metrics = {
                metric for table in read_tables(objects, values) for metric in table["metric"].unique().to_pylist()
            }
            if missing := metrics - set(directions):
                yield f"{name}: has no row of {', '.join(sorted(missing))}, of which there are values"
                continue
            notes = {(row["method"], row["metric"]): row["note"] for row in summary.to_pylist()}
            expected = summarize(read_tables(objects, values), directions, notes)
            yield from _compare(name, summary, expected, ("method", "target", "metric"), f"that of {values}/")


def _compare(name: str, stored: pa.Table, expected: pa.Table, keys: Sequence[str], source: str) -> Iterator[str]:
    """Yield the first row that differs from the recomputed one, and rows that only one of the tables has."""
    stored_rows, expected_rows = (_rows_by_key(table, keys) for table in (stored, expected))
    if len(stored_rows) < len(stored):
        yield f"{name}: has {len(stored)} rows of {len(stored_rows)} different {', '.join(keys)}"
    for key in sorted(set(stored_rows) ^ set(expected_rows), key=str)[:1]:
        yield f"{name}: {'has no' if key not in stored_rows else 'has a'} row of {_format_key(key)}, unlike {source}"
    for key in stored_rows.keys() & expected_rows.keys():
        row, expected_row = stored_rows[key], expected_rows[key]
        columns = [column for column in expected.column_names if not _is_close(row[column], expected_row[column])]
        if columns:
            column = columns[0]
            yield f"{name}: {column} of {_format_key(key)} is {row[column]}, and {source} is {expected_row[column]}"
            return


def _rows_by_key(table: pa.Table, keys: Sequence[str]) -> dict[_Key, dict[str, Any]]:
    return {tuple(row[name] for name in keys): row for row in table.to_pylist()}


def _is_close(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return bool(np.isclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))
    return bool(a == b)


def _format_key(key: _Key) -> str:
    return ", ".join("all classes" if part is None else str(part) for part in key)


def verify_counts(objects: ObjectStore) -> Iterator[str]:
    """Yield faults of the counts: they must add up to the planned samples, and equal the images in the tables."""
    name = "completeness.parquet"
    if not objects.exists(name):
        return
    counts: Counter[_Key] = Counter()
    expected: defaultdict[_Key, set[int]] = defaultdict(set)
    ok: Counter[str] = Counter()
    for row in read_table(objects, name).to_pylist():
        key = (row["shard"], row["kind"], row["method"])
        counts[key] += row["count"]
        expected[key].add(row["expected"])
        if (row["kind"], row["status"]) == ("samples", "ok"):
            ok[row["shard"]] += row["count"]
    for key, totals in expected.items():
        if totals != {counts[key]}:
            group = " ".join(part for part in key if part is not None)
            yield f"{name}: {group} are {counts[key]} and should be {', '.join(map(str, sorted(totals)))}"
    target = AuditSpec.read(objects.get(ABOUT), f"{objects.url}/{ABOUT}").target
    for shard in sorted({file.removesuffix(".parquet") for file in objects.list("images")} | set(ok)):
        table = f"images/{shard}.parquet"
        images = len(read_table(objects, table, ["row"])["row"].unique())
        if images > ok[shard] or (images < ok[shard] and not may_lack(target)):
            yield f"{table}: has {images} images, and {name} counts {ok[shard]} with maps"


def verify_clusters(objects: ObjectStore) -> Iterator[str]:
    """Yield faults of ranks and clusters: ranks must be in order, and clusters those of classes and members."""
    name = "shortcuts.parquet"
    classes = read_table(objects, name).to_pylist()
    rows_by_key: defaultdict[_Key, list[dict[str, Any]]] = defaultdict(list)
    for row in classes:
        rows_by_key[row["method"], row["target"]].append(row)
    for key, rows in rows_by_key.items():
        ranked = sorted(rows, key=lambda row: row["rank"])
        if [row["rank"] for row in ranked] != list(range(1, len(rows) + 1)):
            yield f"{name}: ranks of {_format_key(key)} are not 1 to {len(rows)}"
        if any(first["excess"] < second["excess"] for first, second in pairwise(ranked)):
            yield f"{name}: ranks of {_format_key(key)} are not in the order of excess"
    yield from _verify_members(objects, classes)


def _verify_members(objects: ObjectStore, classes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    name, members_name = "clusters.parquet", "members.parquet"
    clusters = read_table(objects, name).to_pylist()
    members = _append_class(read_table(objects, members_name, ["method", "target", "row", "cluster"]), objects)
    keys = ("method", "target", "class", "cluster")
    groups = members.group_by(list(keys), use_threads=False).aggregate([("row", "count")]).to_pylist()
    member_counts = {tuple(row[key] for key in keys): row["row_count"] for row in groups}
    # There may be very many members, and few of them are central.
    central = members.filter(pc.is_in(members["row"], pa.array([row["central_row"] for row in clusters], pa.int64())))
    central_members = {tuple(row[key] for key in (*keys, "row")) for row in central.to_pylist()}
    cluster_counts, map_counts = Counter[_Key](), Counter[_Key]()
    for row in clusters:
        key = tuple(row[name] for name in keys)
        cluster_counts[key[:3]] += 1
        map_counts[key[:3]] += row["maps"]
        if member_counts.pop(key, 0) != row["maps"]:
            yield f"{name}: maps of {_format_key(key)} are not as many as {members_name} has"
        if (*key, row["central_row"]) not in central_members:
            yield f"{name}: the central map of {_format_key(key)} is not among its members"
    for key in member_counts:
        yield f"{members_name}: has maps in {_format_key(key)}, which is missing in {name}"
    for row in classes:
        key = tuple(row[name] for name in keys[:3])
        if cluster_counts[key] != row["clusters"] or map_counts[key] != min(row["maps"], MAX_MAPS):
            yield f"{name}: clusters of {_format_key(key)} are not those that shortcuts.parquet counts"


def _append_class(members: pa.Table, objects: ObjectStore) -> pa.Table:
    """Append the class that the maps of members explain; −1 for images that are not in the tables."""
    tables = read_tables(objects, "images", _CLASSES.names)
    classes = pa.concat_tables(
        [_CLASSES.empty_table(), *(table.group_by(_CLASSES.names, use_threads=False).aggregate([]) for table in tables)]
    )
    index = pc.index_in(members["row"], classes["row"].combine_chunks())
    return members.append_column("class", pc.fill_null(classes["class"].take(index), -1))
