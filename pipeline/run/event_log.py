"""The log of a run for machines: one line of JSON for each attempt at a shard.

Written by the one process that hears of all of them, so that a line is there even where the actor died, and no two
writers share a file. Not beside the atlas: object storage cannot append, and what collects logs on a cluster
reads files and standard error.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any

from pipeline.run.events import Committed, Event, Quarantined, Retrying
from pipeline.utils.redaction import redact
from schemas.errors import UsageError
from schemas.run import RunRecord


@contextmanager
def unit_log(file: str | None, run: RunRecord) -> Iterator[Callable[[Event], None]]:
    """What is to be called with every outcome of a run.

    Args:
        file: is appended to; ``-`` is standard error, None nothing.

    Raises:
        UsageError: it cannot be written.
    """
    if file is None:
        yield lambda outcome: None
    elif file == "-":
        yield lambda outcome: _write(outcome, run, sys.stderr)
    else:
        try:
            stream = open(file, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"--log {file}: {error.strerror}; name a file that can be appended to, or -") from None
        with stream:
            yield lambda outcome: _write(outcome, run, stream)


def _write(outcome: Event, run: RunRecord, stream: IO[str]) -> None:
    if line := entry(outcome, run):
        stream.write(json.dumps(line) + "\n")
        stream.flush()


def entry(outcome: Event, run: RunRecord) -> dict[str, Any] | None:
    """What the log says of an outcome: the same fields always, None where they say nothing.

    ``outcome`` is ``done``, ``again`` (the attempt failed, another is made) or ``quarantined``.
    """
    if isinstance(outcome, Committed):
        commit = outcome.commit
        return _fields(run, commit.shard_index, "done", commit.attempt) | {
            "host": commit.host,
            "rows": commit.rows,
            "ok": commit.ok,
            "failed": commit.rows - commit.ok,
            "bytes": sum(each.size for each in commit.objects),
            "seconds": commit.seconds,
        }
    if isinstance(outcome, Retrying | Quarantined):
        what = "again" if isinstance(outcome, Retrying) else "quarantined"
        return _fields(run, outcome.shard_index, what, outcome.attempt) | {"reason": redact(outcome.reason)}
    return None


def _fields(run: RunRecord, shard_index: int, outcome: str, attempt: int) -> dict[str, Any]:
    nothing = dict.fromkeys(("host", "rows", "ok", "failed", "bytes", "seconds", "reason"))
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    shard = run.shards[shard_index].name
    return {
        "time": now,
        "event": "unit",
        "outcome": outcome,
        "shard": shard,
        "shard_index": shard_index,
        "attempt": attempt,
    } | nothing
