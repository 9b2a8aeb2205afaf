"""The maps of an atlas, which stand there shard by shard, class by class."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.store import Atlas, AtlasShard
from schemas.layout import Flag
from schemas.run import TargetKind
from schemas.samples import CLASS_COLUMNS


class ShardMaps(NamedTuple):
    """Maps of a shard, without those that say nothing.

    Attributes:
        rows: int64 [n], of the samples.
        classes: int64 [n], that the maps explain.
        maps: float32 [n, h, w] in [0, 1].
        left_out: int64 [m], classes of the maps that are constant or were not finite.
    """

    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    maps: NDArray[np.float32]
    left_out: NDArray[np.int64]


class ClassMaps(NamedTuple):
    """Maps of a class, without those that say nothing.

    Attributes:
        class_index: which class.
        rows: int64 [n], of the samples, ascending.
        maps: float16 [n, h, w] in [0, 1].
    """

    class_index: int
    rows: NDArray[np.int64]
    maps: NDArray[np.float16]


def read_shard_maps(shard: AtlasShard, method: str, target: TargetKind) -> ShardMaps:
    """The maps of a shard that say anything."""
    good = shard.good
    says = good & (shard.flags(method, target) == Flag.OK)
    classes = shard.samples[CLASS_COLUMNS[target]].to_numpy(zero_copy_only=False)
    return ShardMaps(
        shard.samples["row"].to_numpy()[says],
        classes[says].astype(np.int64),
        shard.maps(method, target)[says],
        classes[good & ~says].astype(np.int64),
    )


def read_maps_by_class(atlas: Atlas, method: str, target: TargetKind) -> Iterator[ClassMaps]:
    """The maps of each class that has any. In memory are those of one class, or of one shard.

    The shards are read once, into a temporary file in which each class has its place: reading the atlas once for each
    class would read all of it, since its shards are mixed.
    """
    samples = atlas.samples(["row", CLASS_COLUMNS[target]])
    rows, classes = samples["row"].to_numpy(), samples[CLASS_COLUMNS[target]].fill_null(-1).to_numpy()
    order = np.argsort(classes, kind="stable")
    place = np.argsort(order)
    present, begins = np.unique(classes[order], return_index=True)
    with tempfile.TemporaryDirectory(prefix="vitatlas-") as folder:
        maps = np.memmap(Path(folder) / "maps", np.float16, "w+", shape=(max(1, len(order)), *atlas.run.model.grid))
        told = np.zeros(len(order), bool)
        for name in atlas.shard_names:
            found = read_shard_maps(atlas.shard(name), method, target)
            where = place[np.searchsorted(rows, found.rows)]
            maps[where], told[where] = found.maps, True
        for index, part in zip(present, np.split(np.arange(len(order)), begins[1:]), strict=True):
            inside = part[told[part]]
            if len(inside):
                yield ClassMaps(int(index), rows[order[inside]], np.array(maps[inside]))
