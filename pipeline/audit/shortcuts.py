"""Which classes are decided by a shortcut? Searched in maps and classes alone."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipeline.audit.fixed_location_test import ALARM_THRESHOLD, OutlierCounts, find_outlier_cells
from pipeline.audit.maps_by_class import read_maps_by_class, read_shard_maps
from pipeline.audit.spray import SprayClusters, cluster_maps
from pipeline.run.parallel_map import parallel_map
from pipeline.store import Atlas
from schemas.audit_tables import CLUSTER_MEMBERS, CLUSTERS, SHORTCUTS
from schemas.run import TargetKind

MAX_MAPS = 2000
"""Of a class that are clustered; of more, so many are drawn."""
_Row = dict[str, Any]


class ShortcutTables(NamedTuple):
    """What was found.

    Attributes:
        classes, clusters, members: tables, as ``SHORTCUTS``, ``CLUSTERS`` and ``CLUSTER_MEMBERS`` of ``schemas.audit_tables``.
    """

    classes: pa.Table
    clusters: pa.Table
    members: pa.Table


def find_shortcuts(
    url: str, target: TargetKind = "label", methods: Sequence[str] = (), address: str | None = None
) -> ShortcutTables:
    """Rank the classes of an atlas by how much their maps are locked to one place, and cluster the maps of each.

    Which classes raise an alarm is decided by ``pipeline.audit.fixed_location_test``, whose error rate is known; the clusters and
    gaps of ``pipeline.audit.spray`` show what the maps of a class have in common, and decide nothing.

    Args:
        methods: empty is all.
        address: of a Ray cluster, see ``parallel_map``.

    Raises:
        UsageError: the atlas has no such method or target, or no finished shard.
    """
    atlas = Atlas.open(url)
    chosen = tuple(dict.fromkeys(methods)) or atlas.methods
    atlas.require(target, chosen)
    found = dict(parallel_map(partial(_search, url, target), chosen, "search for shortcuts", address))
    tables = zip(*(found[method] for method in chosen), strict=True)
    return ShortcutTables(*(pa.concat_tables(each).unify_dictionaries().combine_chunks() for each in tables))


def _search(url: str, target: TargetKind, method: str) -> tuple[str, ShortcutTables]:
    atlas = Atlas.open(url)
    standing, left_out = _standing(atlas, method, target)
    locked = standing.locked
    cells = locked.argmax(1)
    whose = {"method": method, "target": target}
    classes, clusters, members = list[_Row](), list[_Row](), [CLUSTER_MEMBERS.empty_table()]
    for index, rows, maps in read_maps_by_class(atlas, method, target):
        drawn = np.sort(np.random.default_rng(index).permutation(len(rows))[:MAX_MAPS])
        rows, maps, cell = rows[drawn], maps[drawn], cells[index]
        with threadpool_limits(1):  # methods are spread over the cores; threads of each would only wait for another
            groups = cluster_maps(maps)
        about = _suspicion(standing, index, cell, locked[index, cell], atlas.run.model.grid[1])
        cut = {"clusters": len(groups.prototypes), "eigengap": groups.gap, "eigenvalues": groups.eigenvalues}
        known = {"class": index, "degenerate": left_out[index]}
        classes.append(whose | known | about | cut)
        stands = find_outlier_cells(maps)[:, cell] != 0
        clusters += [whose | {"class": index} | each for each in _clusters(groups, rows, stands)]
        members.append(_members(groups, rows, whose))
    classes.sort(key=lambda row: -row["excess"])
    classes = [row | {"rank": rank} for rank, row in enumerate(classes, 1)]
    found = pa.Table.from_pylist(classes, SHORTCUTS), pa.Table.from_pylist(clusters, CLUSTERS)
    return method, ShortcutTables(*found, pa.concat_tables(members))


def _suspicion(standing: OutlierCounts, index: int, cell: int, locked: float, width: int) -> _Row:
    hits = standing.counts[index, cell]
    return {
        "maps": standing.maps[index],
        "alarm": locked > ALARM_THRESHOLD,
        "excess": locked,
        "y": cell // width,
        "x": cell % width,
        "outlier_share": standing.shares[index, cell],
        "outlier_share_others": standing.others[index, cell],
        "high_share": standing.above[index, cell] / hits if hits else 0.0,
    }


def _standing(atlas: Atlas, method: str, target: TargetKind) -> tuple[OutlierCounts, NDArray[np.int64]]:
    """How often cells stand out, and how many maps say nothing, by class."""
    count, cells = atlas.run.model.classes, atlas.run.model.grid[0] * atlas.run.model.grid[1]
    nothing = np.zeros((count, cells), np.int64)
    standing, left_out = OutlierCounts(np.zeros(count, np.int64), nothing, nothing), np.zeros(count, np.int64)
    for name in atlas.shard_names:
        found = read_shard_maps(atlas.shard(name), method, target)
        standing += OutlierCounts.of(found.maps, found.classes, count)
        left_out += np.bincount(found.left_out, minlength=count)
    return standing, left_out


def _clusters(groups: SprayClusters, rows: NDArray[np.int64], standing: NDArray[np.bool_]) -> list[_Row]:
    return [
        {
            "cluster": each,
            "maps": int((groups.members == each).sum()),
            "central_row": rows[groups.central[each]],
            "outlier_share": standing[groups.members == each].mean(),
            "prototype": prototype.ravel(),
        }
        for each, prototype in enumerate(groups.prototypes)
    ]


def _members(groups: SprayClusters, rows: NDArray[np.int64], whose: _Row) -> pa.Table:
    columns: _Row = {name: [value] * len(rows) for name, value in whose.items()}
    columns |= {"row": rows, "cluster": groups.members, "embedding": list(groups.embedding.astype(np.float32))}
    return pa.table(columns).cast(CLUSTER_MEMBERS)
