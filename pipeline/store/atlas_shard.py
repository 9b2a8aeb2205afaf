"""What one shard owns of an atlas."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schemas.commits import CommitRecord
from schemas.errors import RunFailedError
from schemas.layout import flag_name, range_name
from schemas.samples import SampleStatus

if TYPE_CHECKING:
    from pipeline.store.atlas import Atlas


class AtlasShard:
    """The part of an atlas that one shard owns.

    Attributes:
        commit: its record.
        samples: its sample table, in order.
    """

    def __init__(self, atlas: "Atlas", commit: CommitRecord) -> None:
        self._atlas, self.commit = atlas, commit
        self.samples = atlas.samples_of(commit.shard)
        self._first = commit.shard_index * atlas.run.slot

    def maps(self, method: str, target: str = "label") -> NDArray[np.float32]:
        """Its maps of a method, one for each sample: float32 [rows, h, w] in [0, 1]; NaN: no map.

        Raises:
            UsageError: the atlas has no such method or target.
            RunFailedError: a map that should be there is not.
        """
        maps = self.values(method, target)
        if np.isnan(maps[self.good]).any():
            raise RunFailedError(f"{self.commit.shard}: {method} maps of {target} are missing; see vitatlas verify")
        return maps

    @cached_property
    def good(self) -> NDArray[np.bool_]:
        """Which samples have maps: bool [rows]."""
        good: NDArray[np.bool_] = np.array(
            [status == SampleStatus.OK for status in self.samples["status"].to_pylist()], bool
        )
        return good

    def ranges(self, method: str, target: str = "label") -> NDArray[np.float32]:
        """Minimum and maximum of the raw maps: float32 [rows, 2]."""
        return self.values(range_name(method), target)

    def flags(self, method: str, target: str = "label") -> NDArray[np.uint8]:
        """A ``Flag`` of each map: uint8 [rows]; 255 where there is none."""
        return self.values(flag_name(method), target).astype(np.uint8)

    def extra_output(self, method: str, name: str, target: str = "label") -> NDArray[np.float32]:
        """A number that the method reports beside each map: float32 [rows], NaN where there is none."""
        return self.values(f"{method}_{name}", target)

    def array(self, name: str) -> NDArray[Any]:
        """Its rows of an array, of all targets, as they are stored: [rows, …]."""
        return self._atlas._rows(name, slice(self._first, self._first + self.commit.rows))

    def values(self, array: str, target: str) -> NDArray[np.float32]:
        """Its rows of an array, whatever they hold."""
        rows = slice(self._first, self._first + self.commit.rows)
        return self._atlas._read(array, rows, target).astype(np.float32)
