"""Collect the results of one shard in memory and write them at its end: arrays, then sample table, then commit."""

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store import zarr_arrays
from pipeline.store.atlas import Atlas
from pipeline.store.atlas_shard import AtlasShard
from pipeline.store.commit_protocol import ShardTransaction, settle
from pipeline.store.object_store import ObjectStore
from pipeline.store.parquet import to_parquet
from pipeline.store.versions import join_versions
from pipeline.utils.isolated import is_isolated
from schemas.base import sha256
from schemas.commits import CommitRecord
from schemas.errors import CorruptShardError, RunFailedError, ShardReplacedError
from schemas.layout import Flag, commit_object, flag_name, range_name, samples_object, shard_object
from schemas.run_record import RunRecord
from schemas.samples import SAMPLES, SampleStatus, has_map
from schemas.shard_record import SourceRecord
from schemas.token_norms import TokenNorms


@dataclass
class ShardWriter:
    """Writer of the rows of one shard.

    Attributes:
        objects: objects of the atlas.
        run: record of the run.
        shard_index: index of the shard in the run.
        slots: rows of each array by its name, [slot, …].
        rows: rows of the sample table so far.
        drift, token_norms, source: as in ``CommitRecord``.
        lease: holder of the lease of the run; empty: none.
        previous, replaces: commit of the rows that were loaded, if any were, and its SHA-256.
    """

    objects: ObjectStore
    run: RunRecord
    shard_index: int
    lease: str = ""
    slots: dict[str, NDArray[Any]] = field(init=False)
    rows: list[dict[str, Any]] = field(default_factory=list)
    drift: dict[str, float] = field(default_factory=dict)
    token_norms: TokenNorms | None = None
    source: SourceRecord = field(default_factory=lambda: SourceRecord(size=-1))
    previous: CommitRecord | None = None
    replaces: str = ""

    def __post_init__(self) -> None:
        self.slots = {name: zarr_arrays.empty_slot(spec, self.run) for name, spec in self.run.arrays.items()}

    def add(
        self, row: dict[str, Any], maps: Mapping[str, NDArray[Any]], extra_outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        """Add the next sample.

        Args:
            row: columns of the sample table except ``row`` and ``shard``.
            maps: raw maps [K, h, w] by method, of ``RunRecord.stored_targets``; empty if the sample has no maps. Those
                of targets that it lacks are not kept.
            extra_outputs: numbers [K] by the name of their array.

        Raises:
            CorruptShardError: another sample had this position before.
        """
        ordinal, first = row["ordinal"], self.run.first_target
        targets = enumerate(self.run.stored_targets)
        present = [place for place, target in targets if not maps or has_map(row, first + place, target)]
        for name, raw in maps.items():
            scaled, bounds, flags = minmax_scale(raw[present])
            self.slots[name][ordinal, present] = scaled
            self.slots[range_name(name)][ordinal, present] = bounds
            self.slots[flag_name(name)][ordinal, present] = flags
        for name, values in extra_outputs.items():
            self.slots[name][ordinal, present] = values[present]
        row = {"row": self.shard_index * self.run.slot + ordinal, "shard": self.shard} | row
        if ordinal == len(self.rows):
            self.rows.append(row)
        elif self.rows[ordinal]["key"] == row["key"]:
            self.rows[ordinal] = row
        else:
            previous = self.rows[ordinal]["key"]
            raise CorruptShardError(
                f"{self.shard}: sample {ordinal} was {previous} and is {row['key']} now; plan another atlas"
            )

    @property
    def shard(self) -> str:
        """Its short name."""
        return self.run.shards[self.shard_index].name

    def resume(self) -> set[int] | None:
        """Load the committed rows of the shard, if there are any.

        Returns:
            Ordinals of the samples without maps, which can be added again; None where the shard has no commit.

        Raises:
            CorruptShardError: an object is not as it was committed; written again, it would look as if it were.
        """
        while (data := self._read_commit()) is not None:
            commit = self._parse_commit(data)
            settle(self.objects, self.shard, self.shard_index)
            with suppress(ShardReplacedError):
                return self._load(commit, sha256(data))
        return None

    def _load(self, commit: CommitRecord, digest: str) -> set[int]:
        try:
            shard = AtlasShard(Atlas(self.objects, self.run), commit)
            for name, values in self.slots.items():
                values[: commit.rows] = shard.array(name)
        except ShardReplacedError:
            raise
        except RunFailedError as error:
            raise CorruptShardError(
                f"{error}; to repair the shard, remove {commit_object(self.shard)}, then: vitatlas run "
                f"{self.objects.url}"
            ) from None
        self.previous, self.replaces = commit, digest
        self.rows, self.drift, self.token_norms = shard.samples.to_pylist(), commit.drift, commit.token_norms
        return set(np.flatnonzero(~shard.has_maps).tolist())

    def _read_commit(self) -> bytes | None:
        try:
            return self.objects.get(commit_object(self.shard))
        except FileNotFoundError:
            return None

    def _parse_commit(self, data: bytes) -> CommitRecord:
        return Atlas(self.objects, self.run).parse_commit(self.shard_index, self.shard, data)

    def commit(self, seconds: dict[str, float], attempt: int, host: str, versions: dict[str, str]) -> CommitRecord:
        """Write all objects, the commit last.

        Args:
            seconds: time by stage, and their ``total``; the stage ``write`` is added here.
            attempt: number of the attempt, from 1.
            host: name of this machine.
            versions: versions of the packages that computed the shard.

        Returns:
            The commit of the shard: this one, or that of another writer that was faster.

        Raises:
            RunFailedError: the run has lost its lease.
        """
        start = time.perf_counter()
        committed = self.previous.objects if self.previous else ()
        transaction = ShardTransaction(self.objects, self.shard_index, self.replaces, committed, self.lease)
        written = [
            transaction.write(
                shard_object(name, self.shard_index, len(spec.dims)),
                zarr_arrays.encode_slot(self.run, spec, self.slots[name]),
            )
            for name, spec in self.run.arrays.items()
        ]
        written.append(transaction.write(samples_object(self.shard), self._table()))
        statuses = Counter(str(row["status"]) for row in self.rows)
        fallbacks = Counter(str(row["fallback"]) for row in self.rows if row.get("fallback"))
        write_seconds = time.perf_counter() - start
        seconds = seconds | {"write": write_seconds, "total": seconds.get("total", 0.0) + write_seconds}
        record = CommitRecord(
            shard=self.shard,
            shard_index=self.shard_index,
            rows=len(self.rows),
            ok=statuses[SampleStatus.OK],
            statuses=dict(sorted(statuses.items())),
            degenerate=self._count_degenerate(),
            isolated=self._count_isolated(),
            token_norms=self.token_norms,
            drift=self.drift,
            fallbacks=dict(sorted(fallbacks.items())),
            objects=tuple(written),
            run_hash=self.run.run_hash,
            source=self.source,
            versions=join_versions(self.previous.versions, versions) if self.previous else versions,
            replaces=self.replaces,
            lease=self.lease,
            seconds={stage: round(value, 4) for stage, value in seconds.items()},
            attempt=attempt,
            host=host,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if transaction.publish(record):
            return record
        if (data := self._read_commit()) is None:
            raise RunFailedError(
                f"{self.objects.url}/{commit_object(self.shard)}: was removed while its shard was processed; run the "
                "same command again"
            )
        return self._parse_commit(data)

    def _count_degenerate(self) -> dict[str, int]:
        """Return the number of constant and non-finite maps by method, where there are any."""
        flags = {name: self.slots[flag_name(name)] for name in self.run.methods}
        counts = {name: int(np.isin(value, (Flag.CONSTANT, Flag.NOT_FINITE)).sum()) for name, value in flags.items()}
        return {name: count for name, count in sorted(counts.items()) if count}

    def _count_isolated(self) -> dict[str, int]:
        """Return the number of maps of a few single patches by method, where there are any."""
        counts = {name: int(is_isolated(self.slots[name][: len(self.rows)]).sum()) for name in self.run.methods}
        return {name: count for name, count in sorted(counts.items()) if count}

    def _table(self) -> bytes:
        metadata = {"format": str(self.run.format), "run": self.run.run_hash, "model": self.run.model.weights}
        table = pa.Table.from_pylist(self.rows, schema=SAMPLES.with_metadata(metadata))
        return to_parquet(table)


def minmax_scale(raw: NDArray[Any]) -> tuple[NDArray[np.float16], NDArray[np.float32], NDArray[np.uint8]]:
    """Scale raw maps to [0, 1].

    Args:
        raw: float [K, h, w].

    Returns:
        The scaled maps, float16 [K, h, w]: ``(raw − min) / (max − min)``, 0 where a map is constant or not finite; the
        bounds, float32 [K, 2]: minimum and maximum, 0 where a map is not finite; and a ``Flag`` for each, uint8 [K].
    """
    raw = raw.astype(np.float64)
    finite = np.isfinite(raw).all((1, 2))
    raw = np.where(finite[:, None, None], raw, 0)
    low, high = raw.min((1, 2)), raw.max((1, 2))
    constant = high == low
    scaled = (raw - low[:, None, None]) / np.where(constant, 1.0, high - low)[:, None, None]
    flags = np.where(finite, np.where(constant, Flag.CONSTANT, Flag.OK), Flag.NOT_FINITE)
    return scaled.astype(np.float16), np.stack([low, high], 1).astype(np.float32), flags.astype(np.uint8)
