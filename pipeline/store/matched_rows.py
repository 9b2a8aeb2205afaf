"""Rows of another atlas that have the images of one shard."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.store.map_reader import MapReader
from pipeline.store.match_images import NO_ROW, Rows
from pipeline.store.shard_maps import VIEW, ShardMaps
from pipeline.store.zarr_arrays import row_shape
from schemas.run_record import RunRecord
from schemas.samples import class_columns, class_ids
from schemas.targets import is_text


class MatchedRows:
    """The samples of one shard in another atlas, where they may be in any shards and rows.

    Attributes:
        reader: the other atlas.
        rows: row of each sample there, ``NO_ROW`` where there is none.
        is_there: samples that it has: bool [n].
    """

    def __init__(self, reader: MapReader, rows: Rows) -> None:
        self.reader, self.rows, self.is_there = reader, rows, rows != NO_ROW

    def _by_shard(self) -> Iterator[tuple[str, Rows, Rows]]:
        """Yield the shards of the other atlas, each with the places of samples here and their ordinals there."""
        places = np.flatnonzero(self.is_there)
        shards, ordinals = np.divmod(self.rows[places], self.reader.run.slot)
        for index in np.unique(shards):
            chosen = shards == index
            yield self.reader.run.shards[index].name, places[chosen], ordinals[chosen]

    def samples(self, columns: Sequence[str]) -> pa.Table:
        """Return columns of the sample table for the samples that are there, in the order of the shard here."""
        tables, places = [], []
        for shard, of_shard, ordinals in self._by_shard():
            tables.append(self.reader.samples_of(shard, columns).take(pa.array(ordinals)))
            places.append(of_shard)
        if not tables:
            return self.reader.samples_of(self.reader.shard_names[0], columns).slice(0, 0)
        return pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(places)))).combine_chunks()

    @cached_property
    def _shards(self) -> dict[str, ShardMaps]:
        return {shard: self.reader.shard(shard) for shard, _, _ in self._by_shard()}

    def array(self, name: str) -> NDArray[Any]:
        """Return the rows of an array, as ``ShardMaps.array``; samples that are not there have no map."""
        spec, run = self.reader.run.arrays[name], self.reader.run
        found = np.full((len(self.rows), *row_shape(spec, run)), spec.empty, spec.dtype)
        for shard, places, ordinals in self._by_shard():
            found[places] = self._shards[shard].array(name)[ordinals]
        return found

    def views(self) -> list[dict[str, Any]]:
        """Return how the network saw each image, as ``ShardMaps.views``; nothing for samples that are not there."""
        views: list[dict[str, Any]] = [{} for _ in self.rows]
        for place, view in zip(np.flatnonzero(self.is_there), self.samples(VIEW).to_pylist(), strict=True):
            views[place] = view
        return views

    def has_other_class(self, samples: pa.Table, run: RunRecord, target: str) -> NDArray[np.bool_]:
        """Return which samples have maps of another class or text in the other atlas: bool [n].

        Args:
            samples: their sample table here, with ``columns_of_target``.
            run: of the atlas here.
            target: the target.
        """
        differ = np.zeros(len(self.rows), bool)
        here = samples.filter(pa.array(self.is_there))
        there = self.samples(columns_of_target(target))
        one, other = (_explained(table, of, target) for table, of in ((here, run), (there, self.reader.run)))
        differ[self.is_there] = [first != second for first, second in zip(one, other, strict=True)]
        return differ


def columns_of_target(target: str) -> list[str]:
    """Return the columns that tell what the maps of a target explain."""
    return ["target_texts"] if is_text(target) else list(class_columns(target))


def _explained(samples: pa.Table, run: RunRecord, target: str) -> list[Any]:
    """Return the class or the text that maps explain, of each sample."""
    targets = run.spec.target_names
    if is_text(target):
        column = pc.list_element(samples["target_texts"], list(targets).index(target))
    else:
        column = class_ids(samples, target, targets)
    found: list[Any] = column.to_pylist()
    return found
