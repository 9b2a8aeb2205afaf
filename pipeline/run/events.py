"""Events of a run, the same for every executor."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.commits import CommitRecord


@dataclass(frozen=True)
class ShardCommitted:
    """A shard is committed."""

    commit: CommitRecord


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt at a shard failed."""

    shard_index: int
    attempt: int
    reason: str


class ShardQuarantined(FailedAttempt):
    """A shard cannot be done; the run continues without it and fails at its end."""


class ShardRetried(FailedAttempt):
    """An attempt at a shard failed, and another one follows."""


def failed_attempt(shard_index: int, attempt: int, reason: str, quarantined: Mapping[int, str]) -> FailedAttempt:
    """Return the event of a failed attempt.

    Args:
        shard_index: of the shard.
        attempt: its number, from 1.
        reason: why it failed.
        quarantined: reason of each shard that is quarantined.
    """
    if shard_index in quarantined:
        return ShardQuarantined(shard_index, attempt, quarantined[shard_index])
    return ShardRetried(shard_index, attempt, reason)


@dataclass(frozen=True)
class ShardsInProgress:
    """Shards that actors work on from now on."""

    shards: tuple[int, ...]


@dataclass(frozen=True)
class LogMessage:
    """A message to the user: an actor was lost, the run is stopping."""

    text: str


Event = ShardCommitted | FailedAttempt | ShardsInProgress | LogMessage
