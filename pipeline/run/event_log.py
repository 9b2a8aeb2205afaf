"""Event log of a run: one line of JSON for each attempt at a shard.

The driver writes it, so that a line exists even if the actor died, and no two processes share a file. It is not
beside the atlas: object storage cannot append, and log collectors of clusters read files and standard error.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any

from pipeline.run.events import Event, FailedAttempt, ShardCommitted, ShardRetried
from pipeline.utils.redaction import redact
from schemas.errors import UsageError
from schemas.run_record import RunRecord


@contextmanager
def open_event_log(file: str | None, run: RunRecord) -> Iterator[Callable[[Event], None]]:
    """Yield a function that logs an event.

    Args:
        file: to append to; ``-`` is standard error, None logs nothing.
        run: that the events are of.

    Raises:
        UsageError: the file cannot be written.
    """
    if file is None:
        yield lambda event: None
    elif file == "-":
        yield lambda event: _write(event, run, sys.stderr)
    else:
        try:
            stream = open(file, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"--log {file}: {error.strerror}; name a file that can be appended to, or -") from None
        with stream:
            yield lambda event: _write(event, run, stream)


def _write(event: Event, run: RunRecord, stream: IO[str]) -> None:
    if entry := log_entry(event, run):
        stream.write(json.dumps(entry) + "\n")
        stream.flush()


def log_entry(event: Event, run: RunRecord) -> dict[str, Any] | None:
    """Return the log entry of an event; the fields are always the same, None where they do not apply.

    The field ``outcome`` is ``committed``, ``retrying`` (the attempt failed, another follows) or ``quarantined``.

    Args:
        event: to log.
        run: that it is of.

    Returns:
        The entry; None if the event is not logged.
    """
    if isinstance(event, ShardCommitted):
        commit = event.commit
        return _make_entry(run, commit.shard_index, "committed", commit.attempt) | {
            "host": commit.host,
            "rows": commit.rows,
            "ok": commit.ok,
            "failed": commit.rows - commit.ok,
            "bytes": sum(record.size for record in commit.objects),
            "seconds": commit.seconds,
        }
    if isinstance(event, FailedAttempt):
        outcome = "retrying" if isinstance(event, ShardRetried) else "quarantined"
        return _make_entry(run, event.shard_index, outcome, event.attempt) | {"reason": redact(event.reason)}
    return None


def _make_entry(run: RunRecord, shard_index: int, outcome: str, attempt: int) -> dict[str, Any]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": "shard",
        "outcome": outcome,
        "shard": run.shards[shard_index].name,
        "shard_index": shard_index,
        "attempt": attempt,
    } | dict.fromkeys(("host", "rows", "ok", "failed", "bytes", "seconds", "reason"))
