"""One tar's results, gathered in memory and written at its end: arrays, then table, then commit."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.store import arrays
from pipeline.store.objects import Objects
from schemas.layout import commit_object, range_name, samples_object
from schemas.run import CommitRecord, RunRecord
from schemas.samples import SAMPLES, Status


@dataclass
class Sink:
    """The slot of one tar.

    Attributes:
        objects: of the atlas.
        run: the frozen run.
        tar_index: which of its shards.
        maps: float16 [slot, K, h, w] of each method, in [0, 1]; NaN where there is none.
        ranges: float32 [slot, K, 2] of each method: minimum and maximum of the raw map.
        rows: the sample table so far.
    """

    objects: Objects
    run: RunRecord
    tar_index: int
    maps: dict[str, NDArray[np.float16]] = field(init=False)
    ranges: dict[str, NDArray[np.float32]] = field(init=False)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        run, targets = self.run, len(self.run.spec.targets)
        self.maps = {name: np.full((run.slot, targets, *run.model.grid), np.nan, np.float16) for name in run.methods}
        self.ranges = {name: np.full((run.slot, targets, 2), np.nan, np.float32) for name in run.methods}

    def add(self, row: dict[str, Any], maps: dict[str, NDArray[Any]] | None) -> None:
        """Add the next sample.

        Args:
            row: its columns of the sample table, but for ``row`` and ``tar``.
            maps: raw maps [K, h, w] of each method, or None if the sample has none.
        """
        ordinal = row["ordinal"]
        broken = []
        for name, raw in (maps or {}).items():
            scaled, bounds = normalise(raw)
            if np.isnan(bounds).any():
                broken.append(name)
            self.maps[name][ordinal] = scaled
            self.ranges[name][ordinal] = bounds
        if broken:
            row = row | {
                "status": Status.NOT_FINITE,
                "error": f"NaN or infinity in the maps of {', '.join(broken)}",
            }
        tar = self.run.shards[self.tar_index].tar
        self.rows.append({"row": self.tar_index * self.run.slot + ordinal, "tar": tar} | row)

    def commit(self, seconds: dict[str, float], attempt: int, host: str, versions: dict[str, str]) -> CommitRecord:
        """Write everything. Until the last object is there, nothing of this tar counts."""
        tar = self.run.shards[self.tar_index].tar
        written = []
        for name in self.run.methods:
            written.append(arrays.put(self.objects, self.run, name, self.tar_index, self.maps[name]))
            written.append(arrays.put(self.objects, self.run, range_name(name), self.tar_index, self.ranges[name]))
        written.append(self.objects.put(samples_object(tar), self._table()))
        statuses = Counter(str(row["status"]) for row in self.rows)
        record = CommitRecord(
            tar=tar,
            tar_index=self.tar_index,
            rows=len(self.rows),
            ok=statuses[Status.OK],
            statuses=dict(sorted(statuses.items())),
            objects=tuple(entry for entry in written if entry),
            spec_hash=self.run.spec_hash,
            versions=versions,
            seconds={stage: round(value, 4) for stage, value in seconds.items()},
            attempt=attempt,
            host=host,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.objects.put(commit_object(tar), record.to_bytes())
        return record

    def _table(self) -> bytes:
        metadata = {"format": str(self.run.format), "spec": self.run.spec_hash, "model": self.run.model.weights}
        table = pa.Table.from_pylist(self.rows, schema=SAMPLES.with_metadata(metadata))
        # Built in memory and written whole: a writer that is left open when something raises would
        # publish a valid, short file.
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        return bytes(buffer.getvalue().to_pybytes())


def normalise(raw: NDArray[Any]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Raw maps to [0, 1] and their bounds.

    Args:
        raw: float [K, h, w].

    Returns:
        float16 [K, h, w], ``(raw − min) / (max − min)``, 0 where a map is constant; and float32 [K, 2],
        minimum and maximum. Both NaN for a map that is not finite.
    """
    raw = raw.astype(np.float64)
    low, high = raw.min((1, 2)), raw.max((1, 2))
    finite = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(finite, low, np.nan), np.where(finite, high, np.nan)
    span = np.where(high == low, 1.0, high - low)
    with np.errstate(invalid="ignore"):
        scaled = (raw - low[:, None, None]) / span[:, None, None]
    scaled[~finite] = np.nan
    return scaled.astype(np.float16), np.stack([low, high], 1).astype(np.float32)
