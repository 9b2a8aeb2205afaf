"""``ShardMaps``: the maps and the sample table of one shard."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store.frame import Frame
from pipeline.utils.isolated import is_isolated
from schemas.commits import CommitRecord
from schemas.errors import RunFailedError
from schemas.layout import Flag, flag_name, range_name
from schemas.run_record import RunRecord
from schemas.samples import SampleStatus, class_ids, may_lack
from schemas.shard_record import ShardRecord

VIEW = ("width", "height", "scale_x", "scale_y", "offset_x", "offset_y")
"""Columns of the sample table that say where a map lies in its image."""


class ShardMaps(ABC):
    """The rows of one finished shard.

    Attributes:
        run: record of the run that has computed it.
        commit: its commit in this run.
        samples: its sample table, in order.
    """

    run: RunRecord
    commit: CommitRecord
    samples: pa.Table

    @property
    def planned(self) -> ShardRecord:
        """The shard as it was planned."""
        return self.run.shards[self.commit.shard_index]

    @abstractmethod
    def array(self, name: str) -> NDArray[Any]:
        """Return the rows of an array, for all target kinds of its run, as they were committed: [rows, …].

        Args:
            name: name of the array.

        Raises:
            ShardReplacedError: the commit has been replaced since it was read.
            RunFailedError: the array is missing or damaged.
            UsageError: there is no such array.
        """

    @abstractmethod
    def target_index(self, array: str, target: str) -> int:
        """Return the index of a target kind in an array.

        Raises:
            UsageError: there is no such array or target kind.
        """

    def values(self, array: str, target: str) -> NDArray[np.float32]:
        """Return the rows of an array for one target kind, as float32.

        Args:
            array: name of the array.
            target: target kind.

        Raises:
            UsageError: there is no such array or target kind.
            ShardReplacedError, RunFailedError: see ``array``.
        """
        index = self.target_index(array, target)
        return self.array(array)[:, index].astype(np.float32)

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
        flags = self.values(flag_name(method), target).astype(np.uint8)
        flags[(flags == Flag.OK) & is_isolated(self.values(method, target))] = Flag.ISOLATED
        return flags

    def has_values(self, method: str, target: str = "label") -> NDArray[np.bool_]:
        """Return which samples have a map that is finite and not constant, be it isolated or not: bool [rows].

        Args:
            method: name of the method.
            target: target kind.
        """
        has_values: NDArray[np.bool_] = self.values(flag_name(method), target) == Flag.OK
        return has_values

    def extra_output(self, method: str, name: str, target: str = "label") -> NDArray[np.float32]:
        """Return a number that the method reports beside each map: float32 [rows], NaN where there is none.

        Args:
            method: name of the method.
            name: name of the extra output.
            target: target kind.
        """
        return self.values(f"{method}_{name}", target)

    def frame(self, method: str) -> Frame:
        """Return how the network of a method sees images."""
        return Frame.of(self.run)

    def views(self, method: str) -> list[dict[str, Any]]:
        """Return where the maps of a method lie in each image, by ``VIEW``: one mapping for each sample."""
        views: list[dict[str, Any]] = self.samples.select(VIEW).to_pylist()
        return views

    def has_one_class(self, target: str, methods: Sequence[str]) -> NDArray[np.bool_]:
        """Return which samples have maps of one class or text, whichever method made them: bool [rows].

        Args:
            target: target kind.
            methods: names of methods.
        """
        return np.ones(len(self.samples), bool)
