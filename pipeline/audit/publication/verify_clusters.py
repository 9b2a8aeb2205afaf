"""Are the ranks of an audit in order, and its clusters those of its classes and their members?"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audit.publication.safe_reader import read_table, read_tables
from pipeline.audit.publication.verify_sums import Group, format_key
from pipeline.audit.shortcuts import MAX_MAPS
from pipeline.store import ObjectStore

_PICTURES = pa.schema([pa.field("row", pa.int64(), nullable=False), pa.field("class", pa.int32(), nullable=False)])


def verify_clusters(objects: ObjectStore) -> Iterator[str]:
    """Ranks are in order, and clusters are those of the classes and of their members."""
    name = "shortcuts.parquet"
    classes = read_table(objects, name).to_pylist()
    by_whose: defaultdict[Group, list[dict[str, Any]]] = defaultdict(list)
    for row in classes:
        by_whose[row["method"], row["target"]].append(row)
    for whose, rows in by_whose.items():
        ranked = sorted(rows, key=lambda row: row["rank"])
        if [row["rank"] for row in ranked] != list(range(1, len(rows) + 1)):
            yield f"{name}: ranks of {format_key(whose)} are not 1 to {len(rows)}"
        if any(first["excess"] < second["excess"] for first, second in pairwise(ranked)):
            yield f"{name}: ranks of {format_key(whose)} are not in the order of excess"
    yield from _clusters(objects, classes)


def _clusters(objects: ObjectStore, classes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    name, members = "clusters.parquet", "members.parquet"
    clusters = read_table(objects, name).to_pylist()
    table = _with_class(read_table(objects, members, ["method", "target", "row", "cluster"]), objects)
    keys = ("method", "target", "class", "cluster")
    counts = table.group_by(list(keys), use_threads=False).aggregate([("row", "count")]).to_pylist()
    counted = {tuple(row[key] for key in keys): row["row_count"] for row in counts}
    # There may be very many members, and few of them are central.
    central = table.filter(pc.is_in(table["row"], pa.array([row["central_row"] for row in clusters], pa.int64())))
    inside = {tuple(row[key] for key in (*keys, "row")) for row in central.to_pylist()}
    number, maps = Counter[Group](), Counter[Group]()
    for row in clusters:
        whose = tuple(row[key] for key in keys)
        number[whose[:3]] += 1
        maps[whose[:3]] += row["maps"]
        if counted.pop(whose, 0) != row["maps"]:
            yield f"{name}: maps of {format_key(whose)} are not as many as {members} has"
        if (*whose, row["central_row"]) not in inside:
            yield f"{name}: the central map of {format_key(whose)} is not among its members"
    for whose in counted:
        yield f"{members}: has maps in {format_key(whose)}, of which {name} has nothing"
    for each in classes:
        whose = tuple(each[key] for key in keys[:3])
        if number[whose] != each["clusters"] or maps[whose] != min(each["maps"], MAX_MAPS):
            yield f"{name}: clusters of {format_key(whose)} are not those that shortcuts.parquet counts"


def _with_class(members: pa.Table, objects: ObjectStore) -> pa.Table:
    """Members with the class that their maps explain, −1 where no picture is known."""
    parts = read_tables(objects, "images", _PICTURES.names)
    known = pa.concat_tables(
        [_PICTURES.empty_table(), *(part.group_by(_PICTURES.names, use_threads=False).aggregate([]) for part in parts)]
    )
    place = pc.index_in(members["row"], known["row"].combine_chunks())
    return members.append_column("class", pc.fill_null(known["class"].take(place), -1))
