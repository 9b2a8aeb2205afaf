"""What was planned, what is there, and why the rest is not: counted so that nothing can be lost in silence."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store import Atlas
from pipeline.utils.concurrency import concurrent_map
from schemas.audit_tables import COMPLETENESS, DEGENERATE, PENDING, QUARANTINED
from schemas.commits import CommitRecord
from schemas.errors import RunFailedError
from schemas.run import ShardRecord
from schemas.samples import SampleStatus

_SPECIAL = re.compile(r"""'[^']*'|"[^"]*"|\S*/\S*|0x[0-9a-f]+|\d[\d,.]*""")
"""What differs between errors of one kind: what is quoted, paths, addresses, numbers."""
_LONGEST = 120
_Row = dict[str, Any]


def build_completeness_table(url: str) -> pa.Table:
    """Count what became of every sample that was planned, and of every map of those that have any.

    Returns:
        ``schemas.audit_tables.COMPLETENESS``, shard by shard in the order of the run.

    Raises:
        RunFailedError: a commit cannot be read, or does not say what the sample table of its shard does.
    """
    atlas = Atlas.open(url)
    aside = atlas.quarantined()
    committed = atlas.committed

    def rows(shard: ShardRecord) -> list[_Row]:
        if shard.name in committed:
            return list(_of_commit(atlas, shard, atlas.record(shard.name)))
        return [_of_shard(shard, aside.get(shard.name))]

    found = concurrent_map(rows, atlas.run.shards)
    return pa.Table.from_pylist([row for each in found for row in each], schema=COMPLETENESS)


def _of_shard(shard: ShardRecord, reason: str | None) -> _Row:
    """Of a shard that is not done."""
    if reason is None and not shard.partial:
        reason = shard.fault  # no run has come to it, and it is known what will come of that
    return {
        "shard": shard.name,
        "kind": "samples",
        "status": PENDING if reason is None else QUARANTINED,
        "reason": "the run has not come to it yet" if reason is None else _without_place(reason, shard),
        "count": shard.samples,
        "expected": shard.samples,
    }


def _of_commit(atlas: Atlas, shard: ShardRecord, commit: CommitRecord) -> Iterator[_Row]:
    of_shard = {"shard": shard.name, "kind": "samples", "expected": commit.rows if shard.fault else shard.samples}
    failed = {status: count for status, count in commit.statuses.items() if status != SampleStatus.OK}
    yield of_shard | {"status": str(SampleStatus.OK), "count": commit.ok}
    if failed:
        found = _errors(atlas, shard.name)
        for status, count in failed.items():
            if sum(number for (other, _), number in found.items() if other == status) != count:
                raise RunFailedError(
                    f"{shard.name}: its commit counts {count} samples that are {status}, its sample table does not; "
                    f"see vitatlas verify {atlas.objects.url}"
                )
        for (status, reason), count in sorted(found.items()):
            yield of_shard | {"status": status, "reason": reason, "count": count}
    maps = commit.ok * len(atlas.run.spec.targets)
    for method in atlas.methods:
        of_method = {"shard": shard.name, "kind": "maps", "method": method, "expected": maps}
        degenerate = commit.degenerate.get(method, 0)
        yield of_method | {"status": str(SampleStatus.OK), "count": maps - degenerate}
        if degenerate:
            reason = "the map is constant, or was not finite"
            yield of_method | {"status": DEGENERATE, "reason": reason, "count": degenerate}


def _errors(atlas: Atlas, shard: str) -> Counter[tuple[str, str]]:
    """How many samples of a shard have no maps, by status and kind of error."""
    samples = atlas.samples_of(shard, ["status", "error"])
    failed = samples.filter(pc.not_equal(samples["status"].cast(pa.string()), SampleStatus.OK))
    return Counter((row["status"], generalize_error(row["error"] or "")) for row in failed.to_pylist())


def generalize_error(error: str) -> str:
    """An error without what is special to one sample: names, numbers, and what comes behind a semicolon."""
    general = _SPECIAL.sub("…", error.partition(";")[0])
    return " ".join(general.split())[:_LONGEST]


def _without_place(reason: str, shard: ShardRecord) -> str:
    """A reason that does not tell where the shard stood, which may be a path of somebody's machine or hold a secret."""
    return generalize_error(reason.removeprefix(f"{shard.url}: ").replace(shard.url, "…"))
