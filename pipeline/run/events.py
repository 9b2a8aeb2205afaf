"""What becomes of a unit of work, whoever executes it."""

from dataclasses import dataclass

from schemas.commits import CommitRecord


@dataclass(frozen=True)
class Committed:
    """A shard is committed."""

    commit: CommitRecord


@dataclass(frozen=True)
class Quarantined:
    """A shard cannot be done; the run goes on without it and fails at its end."""

    shard_index: int
    attempt: int
    reason: str


@dataclass(frozen=True)
class Retrying:
    """An attempt at a shard failed, and another one is made."""

    shard_index: int
    attempt: int
    reason: str


@dataclass(frozen=True)
class InProgress:
    """Shards that somebody works on from now on."""

    shards: tuple[int, ...]


@dataclass(frozen=True)
class Message:
    """Something that whoever watches wants to know: an actor was lost, the run is stopping."""

    text: str


Event = Committed | Quarantined | Retrying | InProgress | Message
