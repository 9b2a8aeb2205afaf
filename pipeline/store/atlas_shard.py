"""``AtlasShard``: the rows of one shard in an atlas."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.store import zarr_arrays
from pipeline.store.atlas_reader import AtlasReader
from pipeline.store.commit_protocol import read_committed
from pipeline.store.shard_maps import ShardMaps
from schemas.commits import CommitRecord
from schemas.layout import shard_object


class AtlasShard(ShardMaps):
    """The rows of one finished shard, as one commit names them: every object is read whole and compared with it."""

    def __init__(self, atlas: AtlasReader, commit: CommitRecord) -> None:
        self._atlas, self.run, self.commit = atlas, atlas.run, commit
        self._commits = {atlas: commit}
        self.samples = atlas.samples_of(commit.shard, commit=commit)

    def commit_of(self, array: str, target: str) -> CommitRecord:
        """Return the commit with an array of the shard for a target; see ``AtlasReader.commit_in``."""
        return self._commit_in(self._atlas.holder(array, target))

    def _commit_in(self, holder: AtlasReader) -> CommitRecord:
        if holder not in self._commits:
            self._commits[holder] = self._atlas.commit_in(holder, self.commit)
        return self._commits[holder]

    def place_of(self, array: str, target: str) -> str:
        """Return the name of the shard, with the path of the part in front that has an array for a target."""
        folder = self._atlas.folder_of(self._atlas.holder(array, target))
        return f"{folder}/{self.commit.shard}" if folder else self.commit.shard

    def array(self, name: str) -> NDArray[Any]:
        holders = {target: self._atlas.holder(name, target) for target in self.run.stored_targets}
        values = {holder: self._array_of(holder, name) for holder in dict.fromkeys(holders.values())}
        if len(values) == 1 and (only := next(iter(values))).own.stored_targets == self.run.stored_targets:
            return values[only]
        return np.stack(
            [values[holder][:, holder.own.stored_targets.index(target)] for target, holder in holders.items()], 1
        )

    def _array_of(self, holder: AtlasReader, name: str) -> NDArray[Any]:
        commit, spec = self._commit_in(holder), holder.own.arrays[name]
        path = shard_object(name, commit.shard_index, len(spec.dims))
        record = next((record for record in commit.objects if record.path == path), None)
        data = read_committed(holder.objects, commit, record) if record else None
        return zarr_arrays.decode_slot(holder.own, spec, data)[: commit.rows]

    def target_index(self, array: str, target: str) -> int:
        return self._atlas.check_array(array, target)
