"""Search for classes that may depend on a shortcut, from maps and classes alone."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipeline.audit.fixed_location_test import ALARM_THRESHOLD, OutlierCounts, find_outlier_cells
from pipeline.audit.spray import SprayClusters, cluster_maps, import_packages
from pipeline.run.execution import ComputeOptions
from pipeline.run.parallel_map import parallel_map
from pipeline.store import MapReader, ShardMaps
from pipeline.utils.shares import report_share
from schemas.audit_tables import CLUSTER_MEMBERS, CLUSTERS, SHORTCUTS, SUSPICIOUS_CLASSES
from schemas.samples import class_columns, class_ids
from schemas.scores import is_control

MAX_MAPS = 2000
"""Largest number of maps of a class that are clustered; of more maps a random sample is taken."""
_QUORUM = 0.25
"""Least share of the methods that must raise an alarm at one place."""
_Row = dict[str, Any]


class ShortcutTables(NamedTuple):
    """Result of the search.

    Attributes:
        classes: ``schemas.audit_tables.SHORTCUTS``.
        clusters: ``schemas.audit_tables.CLUSTERS``.
        members: ``schemas.audit_tables.CLUSTER_MEMBERS``.
    """

    classes: pa.Table
    clusters: pa.Table
    members: pa.Table


def find_shortcuts(
    atlas: MapReader,
    target: str = "label",
    methods: Sequence[str] = (),
    options: ComputeOptions = ComputeOptions(),
) -> ShortcutTables:
    """Rank the classes of an atlas by how often their maps have outliers at one place, and cluster the maps of each.

    ``pipeline.audit.fixed_location_test``, whose error rate is known, decides which classes raise an alarm. The
    clusters of ``pipeline.audit.spray`` show what the maps of a class have in common, and decide nothing.

    Args:
        atlas: the atlas with the maps.
        target: target kind of the maps.
        methods: names of methods; empty is all.
        options: where it is computed.

    Raises:
        UsageError: the atlas has no such method or target kind, or no finished shard.
    """
    names, target = atlas.select_methods(target, methods), atlas.find_class_target(target)
    search = partial(_search_method, atlas, target, len(names))
    results = dict(parallel_map(search, names, "search for shortcuts", options.address))
    tables = zip(*(results[method] for method in names), strict=True)
    return ShortcutTables(*(pa.concat_tables(parts).unify_dictionaries().combine_chunks() for parts in tables))


def _search_method(atlas: MapReader, target: str, methods: int, method: str) -> tuple[str, ShortcutTables]:
    import_packages()
    report_share(0)
    counts, degenerate = _count_outliers(atlas, method, target)
    excess = counts.excess_lower_bounds(methods)
    cells = excess.argmax(1)
    keys = {"method": method, "target": target}
    classes, clusters, members = list[_Row](), list[_Row](), [CLUSTER_MEMBERS.empty_table()]
    for class_id, rows, maps in read_maps_by_class(atlas, method, target):
        sample = np.sort(np.random.default_rng(class_id).permutation(len(rows))[:MAX_MAPS])
        rows, maps, cell = rows[sample], maps[sample], cells[class_id]
        with threadpool_limits(1):  # methods run in parallel, so more threads would only compete for the cores
            spray = cluster_maps(maps)
        classes.append(
            keys
            | {"class": class_id, "degenerate": degenerate[class_id]}
            | _test_result(counts, class_id, cell, excess[class_id, cell], atlas.run.model.grid[1])
            | {"clusters": len(spray.prototypes), "eigengap": spray.eigengap, "eigenvalues": spray.eigenvalues}
        )
        is_outlier = find_outlier_cells(maps)[:, cell] != 0
        clusters += [keys | {"class": class_id} | row for row in _cluster_rows(spray, rows, is_outlier)]
        members.append(_member_table(spray, rows, keys))
    classes.sort(key=lambda row: -row["excess"])
    classes = [row | {"rank": rank} for rank, row in enumerate(classes, 1)]
    tables = pa.Table.from_pylist(classes, SHORTCUTS), pa.Table.from_pylist(clusters, CLUSTERS)
    return method, ShortcutTables(*tables, pa.concat_tables(members))


def _test_result(counts: OutlierCounts, class_id: int, cell: int, excess: float, width: int) -> _Row:
    outliers = counts.counts[class_id, cell]
    return {
        "maps": counts.maps[class_id],
        "alarm": excess > ALARM_THRESHOLD,
        "excess": excess,
        "y": cell // width,
        "x": cell % width,
        "outlier_share": counts.shares[class_id, cell],
        "outlier_share_others": counts.other_shares[class_id, cell],
        "high_share": counts.high[class_id, cell] / outliers if outliers else 0.0,
    }


def _count_outliers(atlas: MapReader, method: str, target: str) -> tuple[OutlierCounts, NDArray[np.int64]]:
    """Return the outliers by class and cell, and the number of degenerate maps by class."""
    classes, cells = atlas.run.model.classes, atlas.run.model.grid[0] * atlas.run.model.grid[1]
    zeros = np.zeros((classes, cells), np.int64)
    counts, degenerate = OutlierCounts(np.zeros(classes, np.int64), zeros, zeros), np.zeros(classes, np.int64)
    for name in atlas.shard_names:
        shard_maps = _read_shard_maps(atlas.shard(name), method, target)
        counts += OutlierCounts.from_maps(shard_maps.maps, shard_maps.class_ids, classes)
        degenerate += np.bincount(shard_maps.degenerate, minlength=classes)
    return counts, degenerate


def _cluster_rows(spray: SprayClusters, rows: NDArray[np.int64], is_outlier: NDArray[np.bool_]) -> list[_Row]:
    return [
        {
            "cluster": cluster,
            "maps": int((spray.members == cluster).sum()),
            "central_row": rows[spray.central[cluster]],
            "outlier_share": is_outlier[spray.members == cluster].mean(),
            "prototype": prototype.ravel(),
        }
        for cluster, prototype in enumerate(spray.prototypes)
    ]


def _member_table(spray: SprayClusters, rows: NDArray[np.int64], keys: _Row) -> pa.Table:
    columns: _Row = {name: [value] * len(rows) for name, value in keys.items()}
    columns |= {"row": rows, "cluster": spray.members, "embedding": list(spray.embedding.astype(np.float32))}
    return pa.table(columns).cast(CLUSTER_MEMBERS)


def rank_classes(shortcuts: pa.Table) -> pa.Table:
    """Rank classes by the number of methods that raise an alarm together, then by the highest ``excess`` among these.

    Of a class without an alarm, the highest of any method counts.

    See ``select_alarms``. Mean ranks are not used: most methods rank classes without a shortcut at random. Controls are
    left out: ``edges`` sees a mark in the images, whether the network looks at it or not.

    Args:
        shortcuts: ``schemas.audit_tables.SHORTCUTS``, of one target kind.

    Returns:
        ``schemas.audit_tables.SUSPICIOUS_CLASSES``.
    """
    rows_by_class: dict[int, list[_Row]] = defaultdict(list)
    for row in shortcuts.to_pylist():
        if not is_control(row["method"]):
            rows_by_class[row["class"]].append(row)
    classes = [_combine_methods(rows) for rows in rows_by_class.values()]
    classes.sort(key=lambda row: (-row["alarms"], -row["excess"], row["class"]))
    return pa.Table.from_pylist([row | {"rank": rank} for rank, row in enumerate(classes, 1)], SUSPICIOUS_CLASSES)


def select_alarms(rows: Sequence[_Row]) -> list[_Row]:
    """Return the methods that raise an alarm for a class together, strongest first; none if they are too few.

    Their places are at most one cell away from that of the strongest of them, they are at least a quarter of all, and
    they are the most of all that agree so: a habit of one method must not hide the place that others find. A method
    alone may have a habit that the network does not share: on worlds without a shortcut ``reciprocam:kernel=box``
    is above the limit for the same class in 16 of 22, always by itself, where a shortcut is found by 14 of 17 methods.

    Args:
        rows: of ``schemas.audit_tables.SHORTCUTS``, of one class, without controls.
    """
    alarming = sorted((row for row in rows if row["alarm"]), key=lambda row: (-row["excess"], row["method"]))
    groups = (
        [row for row in alarming[index:] if max(abs(row["y"] - first["y"]), abs(row["x"] - first["x"])) <= 1]
        for index, first in enumerate(alarming)
    )
    together = max(groups, key=len, default=[])
    return together if len(together) >= _QUORUM * len(rows) else []


def _combine_methods(rows: list[_Row]) -> _Row:
    alarming, ranks = select_alarms(rows), [row["rank"] for row in rows]
    clearest = max(alarming or rows, key=lambda row: row["excess"])
    return {name: clearest[name] for name in ("class", "excess", "method", "y", "x")} | {
        "methods": len(rows),
        "alarms": len(alarming),
        "best_rank": min(ranks),
        "mean_rank": sum(ranks) / len(ranks),
    }


class ClassMaps(NamedTuple):
    """Maps of a class without degenerate ones.

    Attributes:
        class_id: the class.
        rows: int64 [n], rows of the samples, ascending.
        maps: float16 [n, h, w] in [0, 1].
    """

    class_id: int
    rows: NDArray[np.int64]
    maps: NDArray[np.float16]


def read_maps_by_class(atlas: MapReader, method: str, target: str) -> Iterator[ClassMaps]:
    """Read the maps class by class. In memory are those of one class, or of one shard.

    The shards are read once, into a temporary file that is ordered by class: shards mix classes, so reading class by
    class would read the whole atlas for each.

    Args:
        atlas: the atlas with the maps.
        method: name of the method.
        target: target kind of the maps.

    Yields:
        The maps of each class that has any, by class id.
    """
    samples = atlas.samples(["row", *class_columns(target)])
    rows = samples["row"].to_numpy()
    classes = class_ids(samples, target, atlas.run.spec.target_names).fill_null(-1).to_numpy()
    order = np.argsort(classes, kind="stable")
    place = np.argsort(order)
    present, begins = np.unique(classes[order], return_index=True)
    with tempfile.TemporaryDirectory(prefix="vitatlas-") as folder:
        maps = np.memmap(Path(folder) / "maps", np.float16, "w+", shape=(max(1, len(order)), *atlas.run.model.grid))
        valid = np.zeros(len(order), bool)
        for name in atlas.shard_names:
            shard_maps = _read_shard_maps(atlas.shard(name), method, target)
            places = place[np.searchsorted(rows, shard_maps.rows)]
            maps[places], valid[places] = shard_maps.maps, True
        for class_id, places in zip(present, np.split(np.arange(len(order)), begins[1:]), strict=True):
            inside = places[valid[places]]
            if len(inside):
                yield ClassMaps(int(class_id), rows[order[inside]], np.array(maps[inside]))


class _ShardMaps(NamedTuple):
    """Maps of a shard without degenerate ones.

    Attributes:
        rows: int64 [n], rows of the samples.
        class_ids: int64 [n], classes that the maps explain.
        maps: float32 [n, h, w] in [0, 1].
        degenerate: int64 [m], classes of the maps that are constant or were not finite.
    """

    rows: NDArray[np.int64]
    class_ids: NDArray[np.int64]
    maps: NDArray[np.float32]
    degenerate: NDArray[np.int64]


def _read_shard_maps(shard: ShardMaps, method: str, target: str) -> _ShardMaps:
    has_maps = shard.has_maps_of(target)
    valid = has_maps & shard.has_values(method, target)
    classes = class_ids(shard.samples, target, shard.run.spec.target_names).to_numpy()
    return _ShardMaps(
        shard.samples["row"].to_numpy()[valid],
        classes[valid].astype(np.int64),
        shard.maps(method, target)[valid],
        classes[has_maps & ~valid].astype(np.int64),
    )
