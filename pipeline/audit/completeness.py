"""Completeness: counts of all planned samples and their maps, by status, so that no loss is silent."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store import MapReader
from pipeline.utils.concurrency import concurrent_map
from schemas.audit_tables import COMPLETENESS, DEGENERATE, PENDING, QUARANTINED
from schemas.commits import CommitRecord
from schemas.errors import RunFailedError
from schemas.samples import SampleStatus, may_lack
from schemas.shard_record import ShardRecord

_DETAILS = re.compile(r"""'[^']*'|"[^"]*"|\S*/\S*|0x[0-9a-f]+|\d[\d,.]*""")
"""Parts that differ between errors of one kind: quoted text, paths, addresses, numbers."""
_MAX_LENGTH = 120
_Row = dict[str, Any]


def build_completeness_table(atlas: MapReader) -> pa.Table:
    """Count every planned sample, and every map of the samples that have maps, by status.

    Args:
        atlas: the atlas.

    Returns:
        ``schemas.audit_tables.COMPLETENESS``, shard by shard in the order of the run.

    Raises:
        RunFailedError: a commit cannot be read, or contradicts the sample table of its shard.
    """
    quarantined = atlas.quarantined()
    committed = atlas.committed

    def rows(shard: ShardRecord) -> list[_Row]:
        if shard.name in committed:
            return list(_count_shard(atlas, shard, atlas.record(shard.name)))
        return [_count_missing(shard, quarantined.get(shard.name))]

    shards = concurrent_map(rows, atlas.run.shards)
    return pa.Table.from_pylist([row for shard_rows in shards for row in shard_rows], schema=COMPLETENESS)


def _count_missing(shard: ShardRecord, reason: str | None) -> _Row:
    """Return the row of a shard that is not finished."""
    if reason is None and not shard.partial:
        reason = shard.fault  # not run yet, and known to fail
    return {
        "shard": shard.name,
        "kind": "samples",
        "status": PENDING if reason is None else QUARANTINED,
        "reason": "not computed yet" if reason is None else _without_location(reason, shard),
        "count": shard.samples,
        "expected": shard.samples,
    }


def _count_shard(atlas: MapReader, shard: ShardRecord, commit: CommitRecord) -> Iterator[_Row]:
    shard_columns = {"shard": shard.name, "kind": "samples", "expected": commit.rows if shard.fault else shard.samples}
    failed = {status: count for status, count in commit.statuses.items() if status != SampleStatus.OK}
    yield shard_columns | {"status": str(SampleStatus.OK), "count": commit.ok}
    if failed:
        errors = _count_errors(atlas, shard.name)
        for status, count in failed.items():
            if sum(number for (error_status, _), number in errors.items() if error_status == status) != count:
                raise RunFailedError(
                    f"{shard.name}: its commit counts {count} samples that are {status}, but its sample table "
                    f"does not; run vitatlas verify {atlas.url}"
                )
        for (status, reason), count in sorted(errors.items()):
            yield shard_columns | {"status": status, "reason": reason, "count": count}
    maps = sum(_count_maps(atlas, commit, target) for target in atlas.run.stored_targets)
    for method in atlas.methods:
        method_columns = {"shard": shard.name, "kind": "maps", "method": method, "expected": maps}
        degenerate = atlas.count_degenerate(method, commit)
        yield method_columns | {"status": str(SampleStatus.OK), "count": maps - degenerate}
        if degenerate:
            reason = "the map is constant, or was not finite"
            yield method_columns | {"status": DEGENERATE, "reason": reason, "count": degenerate}


def _count_maps(atlas: MapReader, commit: CommitRecord, target: str) -> int:
    """Return how many samples of a shard have maps of a target."""
    return int(atlas.shard(commit.shard).has_maps_of(target).sum()) if may_lack(target) else commit.ok


def _count_errors(atlas: MapReader, shard: str) -> Counter[tuple[str, str]]:
    """Count the samples of a shard without maps, by status and kind of error."""
    samples = atlas.samples_of(shard, ["status", "error"])
    failed = samples.filter(pc.not_equal(samples["status"].cast(pa.string()), SampleStatus.OK))
    return Counter((row["status"], generalize_error(row["error"] or "")) for row in failed.to_pylist())


def generalize_error(error: str) -> str:
    """Return an error without details of one sample: names, numbers, and all behind a semicolon."""
    general = _DETAILS.sub("…", error.partition(";")[0])
    return " ".join(general.split())[:_MAX_LENGTH]


def _without_location(reason: str, shard: ShardRecord) -> str:
    """Return a reason without the URL of the shard, which may be a local path or hold a secret."""
    return generalize_error(reason.removeprefix(f"{shard.url}: ").replace(shard.url, "…"))
