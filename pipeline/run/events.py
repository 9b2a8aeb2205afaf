"""Events of a run, the same for every executor."""

from dataclasses import dataclass

from schemas.commits import CommitRecord


@dataclass(frozen=True)
class ShardCommitted:
    """A shard is committed."""

    commit: CommitRecord


@dataclass(frozen=True)
class ShardQuarantined:
    """A shard cannot be done; the run continues without it and fails at its end."""

    shard_index: int
    attempt: int
    reason: str


@dataclass(frozen=True)
class ShardRetried:
    """An attempt at a shard failed, and another one follows."""

    shard_index: int
    attempt: int
    reason: str


@dataclass(frozen=True)
class ShardsInProgress:
    """Shards that actors work on from now on."""

    shards: tuple[int, ...]


@dataclass(frozen=True)
class LogMessage:
    """A message to the user: an actor was lost, the run is stopping."""

    text: str


Event = ShardCommitted | ShardQuarantined | ShardRetried | ShardsInProgress | LogMessage
