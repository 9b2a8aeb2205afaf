"""``AtlasShard``: the rows of one shard in an atlas."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.store import zarr_arrays
from pipeline.store.atlas_reader import AtlasReader
from pipeline.store.commit_protocol import read_committed
from schemas.commits import CommitRecord
from schemas.errors import RunFailedError
from schemas.layout import flag_name, range_name, shard_object
from schemas.run_record import RunRecord
from schemas.samples import SampleStatus, class_ids, may_lack


class AtlasShard:
    """The rows of one finished shard, as one commit names them: every object is read whole and compared with it.

    Attributes:
        commit: its commit.
        samples: its sample table, in order.
    """

    def __init__(self, atlas: AtlasReader, commit: CommitRecord) -> None:
        self._atlas, self.commit = atlas, commit
        self._commits = {atlas: commit}
        self.samples = atlas.samples_of(commit.shard, commit=commit)

    @property
    def run(self) -> RunRecord:
        """Record of the run."""
        return self._atlas.run

    def maps(self, method: str, target: str = "label") -> NDArray[np.float32]:
        """Return the maps of a method, one per sample: float32 [rows, h, w] in [0, 1]; NaN where there is no map.

        Args:
            method: name of the method.
            target: target kind.

        Raises:
            UsageError: the atlas has no such method or target kind.
            RunFailedError: a map is missing.
        """
        maps = self.values(method, target)
        if np.isnan(maps[self.has_maps_of(target)]).any():
            raise RunFailedError(f"{self.commit.shard}: {method} maps of {target} are missing; see vitatlas verify")
        return maps

    @cached_property
    def has_maps(self) -> NDArray[np.bool_]:
        """Samples that have maps, of one target at least: bool [rows]."""
        statuses = self.samples["status"].to_pylist()
        return np.array([status == SampleStatus.OK for status in statuses], np.bool_)

    def has_maps_of(self, target: str) -> NDArray[np.bool_]:
        """Return which samples have maps of a target: bool [rows]."""
        targets = self.run.spec.target_names
        if not may_lack(target):
            return self.has_maps
        has_class: NDArray[np.bool_] = class_ids(self.samples, target, targets).is_valid().to_numpy()
        return self.has_maps & has_class

    def ranges(self, method: str, target: str = "label") -> NDArray[np.float32]:
        """Return minimum and maximum of the raw maps: float32 [rows, 2].

        Args:
            method: name of the method.
            target: target kind.
        """
        return self.values(range_name(method), target)

    def flags(self, method: str, target: str = "label") -> NDArray[np.uint8]:
        """Return a ``Flag`` for each map: uint8 [rows]; 255 where there is no map.

        Args:
            method: name of the method.
            target: target kind.
        """
        return self.values(flag_name(method), target).astype(np.uint8)

    def extra_output(self, method: str, name: str, target: str = "label") -> NDArray[np.float32]:
        """Return a number that the method reports beside each map: float32 [rows], NaN where there is none.

        Args:
            method: name of the method.
            name: name of the extra output.
            target: target kind.
        """
        return self.values(f"{method}_{name}", target)

    def commit_of(self, array: str) -> CommitRecord:
        """Return the commit with an array of the shard; see ``AtlasReader.commit_of``."""
        holder = self._atlas.holder(array)
        if holder not in self._commits:
            self._commits[holder] = self._atlas.commit_of(array, self.commit)
        return self._commits[holder]

    def place_of(self, array: str) -> str:
        """Return the name of the shard, with the path of the part in front that has an array."""
        folder = self._atlas.folder_of(self._atlas.holder(array))
        return f"{folder}/{self.commit.shard}" if folder else self.commit.shard

    def array(self, name: str) -> NDArray[Any]:
        """Return the rows of an array, for all target kinds, as they were committed: [rows, …].

        Args:
            name: name of the array.

        Raises:
            ShardReplacedError: the commit has been replaced since it was read.
            RunFailedError: the array is missing or damaged.
            UsageError: see ``commit_of``.
        """
        holder, commit = self._atlas.holder(name), self.commit_of(name)
        spec = holder.own.arrays[name]
        path = shard_object(name, commit.shard_index, len(spec.dims))
        record = next((record for record in commit.objects if record.path == path), None)
        data = read_committed(holder.objects, commit, record) if record else None
        return zarr_arrays.decode_slot(holder.own, spec, data)[: commit.rows]

    def values(self, array: str, target: str) -> NDArray[np.float32]:
        """Return the rows of an array for one target kind, as float32.

        Args:
            array: name of the array.
            target: target kind.

        Raises:
            UsageError: the atlas has no such array or target kind.
            ShardReplacedError, RunFailedError: see ``array``.
        """
        index = self._atlas.check_array(array, target)
        return self.array(array)[:, index].astype(np.float32)
