"""Are the means, summaries and counts of an audit those of what they were made from?"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.audit.map_tables import compute_group_means
from pipeline.audit.publication.safe_reader import read_table, read_tables
from pipeline.store import ObjectStore
from schemas.audit_tables import AGREEMENT, METHODS

_NEAR = 1e-9
"""Relative: sums that were added in another order differ by less."""
Group = tuple[Any, ...]


def verify_means(objects: ObjectStore) -> Iterator[str]:
    """Means are those of the pictures."""
    for name, folder, by, told, schema in (
        ("methods.parquet", "images", ("method",), "entropy", METHODS),
        ("agreement.parquet", "pairs", ("first", "second"), "spearman", AGREEMENT),
    ):
        again = compute_group_means(read_tables(objects, folder), by, told, schema)
        keys = (*by, "class")
        yield from _different(name, read_table(objects, name), again, keys, f"the mean over {folder}/")


def verify_summaries(objects: ObjectStore) -> Iterator[str]:
    """Summaries of measures are those of their figures."""
    for folder in ("faithfulness", "sanity"):
        if objects.list(folder):
            from pipeline.metrics.summary import summarize  # torch, which few who check need

            name = f"{folder}/summary.parquet"
            there = read_table(objects, name)
            figures = f"{folder}/values"
            better = dict(zip(there["metric"].to_pylist(), there["better"].to_pylist(), strict=True))
            unknown = {each for part in read_tables(objects, figures) for each in part["metric"].unique().to_pylist()}
            if unknown := unknown - set(better):
                yield f"{name}: has no row of {', '.join(sorted(unknown))}, of which there are figures"
                continue
            notes = {(row["method"], row["metric"]): row["note"] for row in there.to_pylist()}
            again = summarize(read_tables(objects, figures), better, notes)
            yield from _different(name, there, again, ("method", "target", "metric"), f"that of {folder}/values/")


def _different(name: str, there: pa.Table, again: pa.Table, keys: Sequence[str], what: str) -> Iterator[str]:
    """The first row of a table, by its keys, that is not as it comes out again; rows that only one of them has."""
    rows, expected = (_by_key(each, keys) for each in (there, again))
    if len(rows) < len(there):
        yield f"{name}: has {len(there)} rows of {len(rows)} different {', '.join(keys)}"
    for key in sorted(set(rows) ^ set(expected), key=str)[:1]:
        yield f"{name}: {'has no' if key not in rows else 'has a'} row of {format_key(key)}, unlike {what}"
    for key in rows.keys() & expected.keys():
        wrong = [column for column in again.column_names if not _near(rows[key][column], expected[key][column])]
        if wrong:
            yield (
                f"{name}: {wrong[0]} of {format_key(key)} is {rows[key][wrong[0]]}, and {what} is {expected[key][wrong[0]]}"
            )
            return


def _by_key(table: pa.Table, keys: Sequence[str]) -> dict[Group, dict[str, Any]]:
    return {tuple(row[name] for name in keys): row for row in table.to_pylist()}


def _near(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=_NEAR, atol=_NEAR, equal_nan=True))
    return bool(one == other)


def format_key(key: Group) -> str:
    """A method, class, shard or the like, for a sentence."""
    return ", ".join("all classes" if part is None else str(part) for part in key)


def verify_counts(objects: ObjectStore) -> Iterator[str]:
    """Counts add up to what was planned, and pictures are as many as have maps."""
    name = "completeness.parquet"
    if not objects.exists(name):
        return
    counts: Counter[Group] = Counter()
    expected: defaultdict[Group, set[int]] = defaultdict(set)
    good: Counter[str] = Counter()
    for row in read_table(objects, name).to_pylist():
        key = (row["shard"], row["kind"], row["method"])
        counts[key] += row["count"]
        expected[key].add(row["expected"])
        if (row["kind"], row["status"]) == ("samples", "ok"):
            good[row["shard"]] += row["count"]
    for key, planned in expected.items():
        if planned != {counts[key]}:
            whose = " ".join(part for part in key if part is not None)
            yield f"{name}: {whose} are {counts[key]} and should be {', '.join(map(str, sorted(planned)))}"
    for shard in sorted({file.removesuffix(".parquet") for file in objects.list("images")} | set(good)):
        part = f"images/{shard}.parquet"
        pictures = len(read_table(objects, part, ["row"])["row"].unique())
        if pictures != good[shard]:
            yield f"{part}: has {pictures} pictures, and {name} says that {good[shard]} have maps"
