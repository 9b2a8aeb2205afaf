"""Assignment of shards to actors: a pure state machine without Ray, clock or I/O."""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

_INITIAL_TIMEOUT = 6 * 3600.0
_MIN_TIMEOUT = 600.0
_TIMEOUT_FACTOR = 10.0


@dataclass(frozen=True)
class Assignment:
    """A shard assigned to an actor, with its attempt number, from 1."""

    actor: int
    shard_index: int
    attempt: int


@dataclass
class _Queue:
    """Shards assigned to an actor.

    Attributes:
        since: when it began with the first of them.
        assigned: the shard that it works on, and those that follow.
        cached: shards that its node has a copy of, and that have not been looked at yet.
    """

    since: float
    assigned: deque[int] = field(default_factory=deque)
    cached: deque[int] = field(default_factory=deque)


class Dispatcher:
    """Assigns each shard to actors until it is done or quarantined, exactly once.

    Times are seconds of any monotonic clock.

    Args:
        shards: indices of the pending shards, in order.
        window: shards that an actor has at a time.
        max_failures: failures after which a shard is quarantined.
        max_losses: actors lost over a shard after which it is quarantined. A loss is not a failure of the shard: most
            are the machine's.
        timeout: seconds that a shard may take; None is ten times the slowest so far, and at least ten minutes; six
            hours until the first is done.

    Attributes:
        done: number of finished shards.
        quarantined: reason by shard index.
    """

    def __init__(
        self,
        shards: Iterable[int],
        window: int = 2,
        max_failures: int = 3,
        max_losses: int = 3,
        timeout: float | None = None,
    ) -> None:
        self.window, self.max_failures, self.max_losses, self.timeout = window, max_failures, max_losses, timeout
        self.done = 0
        self.quarantined: dict[int, str] = {}
        # Ordered, and any shard can be removed or moved to the front in constant time.
        self._pending = OrderedDict.fromkeys(shards)
        self._queues: dict[int, _Queue] = {}
        # Only shards that came back have an entry, so that memory does not grow with the run.
        self._returned: Counter[int] = Counter()
        self._failures: Counter[int] = Counter()
        self._losses: Counter[int] = Counter()
        self._slowest: float | None = None
        self._draining = False

    @property
    def finished(self) -> bool:
        """Nothing is left to assign or to wait for."""
        return not self.busy and (self._draining or not self._pending)

    @property
    def worker_count(self) -> int:
        """Number of actors that are ready."""
        return len(self._queues)

    @property
    def busy(self) -> list[int]:
        """Actors that have shards."""
        return [actor for actor, queue in self._queues.items() if queue.assigned]

    @property
    def left(self) -> int:
        """Number of shards that are neither done nor quarantined."""
        return len(self._pending) + sum(len(queue.assigned) for queue in self._queues.values())

    @property
    def in_progress(self) -> tuple[int, ...]:
        """Shards that actors work on."""
        return tuple(queue.assigned[0] for queue in self._queues.values() if queue.assigned)

    def current_shard(self, actor: int) -> int | None:
        """Return the shard that an actor works on."""
        queue = self._queues.get(actor)
        return queue.assigned[0] if queue and queue.assigned else None

    def attempt(self, shard_index: int) -> int:
        """Return the number of the current or next attempt at a shard, from 1."""
        return self._returned[shard_index] + 1

    def add_worker(self, actor: int, now: float = 0.0, cached: Iterable[int] = ()) -> None:
        """Add an actor that is ready.

        Args:
            actor: its number.
            now: current time.
            cached: shards that its node has a copy of; it gets them first, and other actors get them last.
        """
        queue = self._queues[actor] = _Queue(now, cached=deque(cached))
        for shard_index in queue.cached:
            if shard_index in self._pending:
                self._pending.move_to_end(shard_index)

    def next(self, now: float = 0.0) -> Assignment | None:
        """Return the next assignment, or None if all actors are full or nothing is left."""
        if self._draining or not self._pending or not self._queues:
            return None
        actor, queue = min(self._queues.items(), key=lambda item: len(item[1].assigned))
        if len(queue.assigned) >= self.window:
            return None
        shard_index = self._pop_pending(queue)
        if not queue.assigned:
            queue.since = now
        queue.assigned.append(shard_index)
        return Assignment(actor, shard_index, self.attempt(shard_index))

    def finish(self, actor: int, shard_index: int, now: float = 0.0) -> None:
        """Record that an actor has done a shard.

        Args:
            actor: its number.
            shard_index: of the shard.
            now: current time.
        """
        seconds = self._unassign(actor, shard_index, now)
        self._slowest = max(seconds, self._slowest or 0.0)
        self._forget(shard_index)
        self.done += 1

    def fail(self, actor: int, shard_index: int, reason: str, final: bool, now: float = 0.0) -> None:
        """Record that a shard failed on a healthy actor.

        Args:
            actor: its number.
            shard_index: of the shard.
            reason: why it failed.
            final: it would fail again on any actor.
            now: current time.
        """
        self._unassign(actor, shard_index, now)
        self._failures[shard_index] += 1
        if final or self._failures[shard_index] >= self.max_failures:
            self._quarantine(shard_index, reason)
        else:
            self._returned[shard_index] += 1
            self._pending[shard_index] = None

    def remove_worker(self, actor: int, reason: str, blame: bool = True) -> None:
        """Remove an actor; its shards return to the front.

        Args:
            actor: its number.
            reason: why it is gone.
            blame: the shard that it worked on may have been the cause, which is counted.
        """
        queue = self._queues.pop(actor, None)
        if queue is None or not queue.assigned:
            return
        shards = queue.assigned
        if blame:
            self._losses[shards[0]] += 1
            if self._losses[shards[0]] >= self.max_losses:
                self._quarantine(shards.popleft(), f"{self.max_losses} actors were lost over it; the last: {reason}")
        self._returned.update(shards)
        for shard_index in reversed(shards):
            self._pending[shard_index] = None
            self._pending.move_to_end(shard_index, last=False)

    def overdue(self, now: float) -> dict[int, float]:
        """Return the actors that exceed the timeout of a shard, and the seconds that they have worked on it."""
        limit = self.timeout
        if limit is None:
            slowest = self._slowest
            limit = _INITIAL_TIMEOUT if slowest is None else max(_MIN_TIMEOUT, _TIMEOUT_FACTOR * slowest)
        seconds = {actor: now - self._queues[actor].since for actor in self.busy}
        return {actor: elapsed for actor, elapsed in seconds.items() if elapsed > limit}

    def drain(self) -> None:
        """Stop assigning; shards that are assigned may still be done."""
        self._draining = True

    def _pop_pending(self, queue: _Queue) -> int:
        """Return a shard that the actor's node has a copy of, else the first of all."""
        while queue.cached:
            shard_index = queue.cached.popleft()
            if shard_index in self._pending:
                del self._pending[shard_index]
                return shard_index
        return self._pending.popitem(last=False)[0]

    def _unassign(self, actor: int, shard_index: int, now: float) -> float:
        """Remove a shard from an actor; return the seconds that it took."""
        queue = self._queues[actor]
        seconds = now - queue.since
        queue.assigned.remove(shard_index)
        queue.since = now
        return seconds

    def _quarantine(self, shard_index: int, reason: str) -> None:
        self.quarantined[shard_index] = reason
        self._forget(shard_index)

    def _forget(self, shard_index: int) -> None:
        for counter in (self._returned, self._failures, self._losses):
            counter.pop(shard_index, None)
