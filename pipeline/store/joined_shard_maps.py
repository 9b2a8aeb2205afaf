"""``JoinedShardMaps``: the rows of one shard, with the maps that other atlases have of its images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.store.frame import Frame
from pipeline.store.map_reader import MapReader
from pipeline.store.match_images import Rows
from pipeline.store.matched_rows import MatchedRows
from pipeline.store.shard_maps import ShardMaps
from schemas.errors import RunFailedError
from schemas.labels import LabelStatus
from schemas.samples import SampleStatus

_IDENTITY = ["key", "image_sha256"]


class JoinedShardMaps(ShardMaps):
    """The rows of a shard, with maps of the same images in other atlases, where they may be in any shards and rows.

    Args:
        name: of the atlas that has the shard.
        first: the shard there.
        others: each other atlas by name, with its row of each sample; ``NO_ROW`` is none.
        separator: between the name of an atlas and that of a method.

    Raises:
        RunFailedError: a row has another image than it had when the atlases were matched.
    """

    def __init__(
        self, name: str, first: ShardMaps, others: Mapping[str, tuple[MapReader, Rows]], separator: str
    ) -> None:
        self._name, self._first, self._separator = name, first, separator
        self.run, self.commit = first.run, first.commit
        self._others = {other: MatchedRows(reader, rows) for other, (reader, rows) in others.items()}
        identity = first.samples.select(_IDENTITY)
        for matched in self._others.values():
            if not matched.samples(_IDENTITY).equals(identity.filter(pa.array(matched.is_there))):
                raise RunFailedError(f"{matched.reader.url}: has been changed while it was read; run the command again")
        self.samples = without_some(first.samples, [matched.is_there for matched in self._others.values()])

    def array(self, name: str) -> NDArray[Any]:
        network, own = self._split(name)
        return self._first.array(own) if network == self._name else self._others[network].array(own)

    def target_index(self, array: str, target: str) -> int:
        name, own = self._split(array)
        if name == self._name:
            return self._first.target_index(own, target)
        return self._others[name].reader.check_array(own, target)

    def frame(self, method: str) -> Frame:
        name, own = self._split(method)
        return self._first.frame(own) if name == self._name else self._others[name].reader.frame(own)

    def views(self, method: str) -> list[dict[str, Any]]:
        name, own = self._split(method)
        return self._first.views(own) if name == self._name else self._others[name].views()

    def has_one_class(self, target: str, methods: Sequence[str]) -> NDArray[np.bool_]:
        same = np.ones(len(self.samples), bool)
        for name in {self._split(method)[0] for method in methods} & self._others.keys():
            same &= ~self._others[name].has_other_class(self._first.samples, self.run, target)
        return same

    def _split(self, array: str) -> tuple[str, str]:
        name, _, own = array.rpartition(self._separator)
        return name, own


def without_some(samples: pa.Table, are_there: Sequence[NDArray[np.bool_]]) -> pa.Table:
    """Return samples, with another status for those with maps that are not in all atlases.

    Args:
        samples: of one shard.
        are_there: which of them each other atlas has: bool [n].
    """
    if "status" not in samples.column_names:
        return samples
    place, status = samples.column_names.index("status"), samples["status"].cast(pa.string())
    lacks = pa.array(~np.logical_and.reduce(are_there))
    lacks = pc.and_(lacks, pc.equal(status, SampleStatus.OK))
    changed = pc.if_else(lacks, str(LabelStatus.NOT_IN_ALL), status)
    return samples.set_column(place, samples.schema.field(place), changed.cast(samples.schema.field(place).type))
