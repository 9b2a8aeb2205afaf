"""One shard's results, gathered in memory and written at its end: arrays, then table, then commit."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store import zarr_arrays
from pipeline.store.atlas import Atlas
from pipeline.store.object_store import ObjectStore
from pipeline.store.parquet import to_parquet
from schemas import layout
from schemas.commits import CommitRecord
from schemas.errors import CorruptShardError
from schemas.layout import ArraySpec, Flag, commit_object, flag_name, range_name, samples_object
from schemas.run import RunRecord
from schemas.samples import SAMPLES, SampleStatus


@dataclass
class ShardWriter:
    """The slot of one shard.

    Attributes:
        objects: of the atlas.
        run: the frozen run.
        shard_index: which of its shards.
        slots: what goes into each array, [slot, …] by its name.
        rows: the sample table so far.
        drift: see ``CommitRecord``.
    """

    objects: ObjectStore
    run: RunRecord
    shard_index: int
    slots: dict[str, NDArray[Any]] = field(init=False)
    rows: list[dict[str, Any]] = field(default_factory=list)
    drift: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slots = {name: zarr_arrays.empty(kind, self.run) for name, kind in self._kinds().items()}

    def _kinds(self) -> dict[str, ArraySpec]:
        every = [layout.arrays(method, self.run.extra_outputs.get(method, ())) for method in self.run.methods]
        return {name: kind for one in every for name, kind in one.items()}

    def add(
        self, row: dict[str, Any], maps: Mapping[str, NDArray[Any]], extra_outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        """Add the next sample.

        Args:
            row: its columns of the sample table, but for ``row`` and ``shard``.
            maps: raw maps [K, h, w] of each method; none if the sample has no maps.
            extra_outputs: numbers [K] by the name of their array.
        """
        ordinal = row["ordinal"]
        for name, raw in maps.items():
            scaled, bounds, flags = normalise(raw)
            self.slots[name][ordinal] = scaled
            self.slots[range_name(name)][ordinal] = bounds
            self.slots[flag_name(name)][ordinal] = flags
        for name, values in extra_outputs.items():
            self.slots[name][ordinal] = values
        row = {"row": self.shard_index * self.run.slot + ordinal, "shard": self.shard} | row
        if ordinal == len(self.rows):
            self.rows.append(row)
        elif self.rows[ordinal]["key"] == row["key"]:
            self.rows[ordinal] = row
        else:
            before = self.rows[ordinal]["key"]
            raise CorruptShardError(
                f"{self.shard}: sample {ordinal} was {before} and is {row['key']} now; plan another atlas"
            )

    @property
    def shard(self) -> str:
        """Its short name."""
        return self.run.shards[self.shard_index].name

    def resume(self) -> set[int] | None:
        """Take up what is committed, if that is so.

        Returns:
            Ordinals of the samples that have no maps, which can be added again.
        """
        atlas = Atlas(self.objects, self.run)
        if self.shard not in atlas.committed:
            return None
        part = atlas.shard(self.shard)
        for name, values in self.slots.items():
            values[: part.commit.rows] = part.array(name)
        self.rows, self.drift = part.samples.to_pylist(), part.commit.drift
        return set(np.flatnonzero(~part.good).tolist())

    def commit(self, seconds: dict[str, float], attempt: int, host: str, versions: dict[str, str]) -> CommitRecord:
        """Write everything. Until the last object is there, nothing of this shard counts.

        Args:
            seconds: by stage, and their ``total``; the stage ``write`` is added here.
        """
        begun = time.perf_counter()
        # There may be one, of an earlier attempt whose answer was lost; from here on it counts no more.
        self.objects.delete(commit_object(self.shard))
        written = []
        for name, kind in self._kinds().items():
            written.append(zarr_arrays.put(self.objects, self.run, name, kind, self.shard_index, self.slots[name]))
        written.append(self.objects.put(samples_object(self.shard), self._table()))
        statuses = Counter(str(row["status"]) for row in self.rows)
        fallbacks = Counter(str(row["fallback"]) for row in self.rows if row.get("fallback"))
        took = time.perf_counter() - begun
        seconds = seconds | {"write": took, "total": seconds.get("total", 0.0) + took}
        record = CommitRecord(
            shard=self.shard,
            shard_index=self.shard_index,
            rows=len(self.rows),
            ok=statuses[SampleStatus.OK],
            statuses=dict(sorted(statuses.items())),
            degenerate=self._degenerate(),
            drift=self.drift,
            fallbacks=dict(sorted(fallbacks.items())),
            objects=tuple(entry for entry in written if entry),
            spec_hash=self.run.spec_hash,
            versions=versions,
            seconds={stage: round(value, 4) for stage, value in seconds.items()},
            attempt=attempt,
            host=host,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.objects.put(commit_object(self.shard), record.to_bytes())
        return record

    def _degenerate(self) -> dict[str, int]:
        """Maps of each method that are constant or were not finite, where there are any."""
        flags = {name: self.slots[flag_name(name)] for name in self.run.methods}
        counts = {name: int(np.isin(value, (Flag.CONSTANT, Flag.NOT_FINITE)).sum()) for name, value in flags.items()}
        return {name: count for name, count in sorted(counts.items()) if count}

    def _table(self) -> bytes:
        metadata = {"format": str(self.run.format), "spec": self.run.spec_hash, "model": self.run.model.weights}
        table = pa.Table.from_pylist(self.rows, schema=SAMPLES.with_metadata(metadata))
        return to_parquet(table)


def normalise(raw: NDArray[Any]) -> tuple[NDArray[np.float16], NDArray[np.float32], NDArray[np.uint8]]:
    """Raw maps to [0, 1], their bounds, and whether they say anything.

    Args:
        raw: float [K, h, w].

    Returns:
        float16 [K, h, w], ``(raw − min) / (max − min)``, 0 where a map is constant or not finite; float32
        [K, 2], minimum and maximum, 0 where it is not finite; and uint8 [K] of ``Flag``.
    """
    raw = raw.astype(np.float64)
    finite = np.isfinite(raw).all((1, 2))
    raw = np.where(finite[:, None, None], raw, 0)
    low, high = raw.min((1, 2)), raw.max((1, 2))
    constant = high == low
    scaled = (raw - low[:, None, None]) / np.where(constant, 1.0, high - low)[:, None, None]
    flags = np.where(finite, np.where(constant, Flag.CONSTANT, Flag.OK), Flag.NOT_FINITE)
    return scaled.astype(np.float16), np.stack([low, high], 1).astype(np.float32), flags.astype(np.uint8)
