"""Which unit goes to which actor. A pure state machine: no Ray, no clock of its own, no I/O."""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

_FIRST = 6 * 3600.0
_SHORTEST = 600.0
_FACTOR = 10.0


@dataclass(frozen=True)
class Assignment:
    """A unit that an actor is to do, for the how-manieth time."""

    actor: int
    unit: int
    attempt: int


@dataclass
class _Load:
    """What an actor has: the unit it works on, since when, and those it finds when that is done.

    Attributes:
        near: units whose input is near it, as far as they have not been looked at.
    """

    since: float
    units: deque[int] = field(default_factory=deque)
    near: deque[int] = field(default_factory=deque)


class Dispatcher:
    """Hands units to actors until each is done or quarantined, each exactly once.

    Times are seconds of any clock that does not go back.

    Args:
        units: to be done, in this order.
        window: units that an actor has at a time.
        attempts: after so many failures a unit is quarantined.
        kills: after so many actors were lost over it, likewise. One loss is no failure of the unit: most
            are the machine's.
        timeout: seconds that a unit may take; None is ten times what the slowest one took so far, and at
            least ten minutes; six hours as long as none is done.

    Attributes:
        done: how many units are.
        quarantined: why, by unit.
    """

    def __init__(
        self,
        units: Iterable[int],
        window: int = 2,
        attempts: int = 3,
        kills: int = 3,
        timeout: float | None = None,
    ) -> None:
        self.window, self.attempts, self.kills, self.timeout = window, attempts, kills, timeout
        self.done = 0
        self.quarantined: dict[int, str] = {}
        # With an order, and any of them can be taken out or put in front at once.
        self._pending = OrderedDict.fromkeys(units)
        self._loads: dict[int, _Load] = {}
        # Of units that came back only, so that memory does not grow with the run.
        self._returned: Counter[int] = Counter()
        self._failed: Counter[int] = Counter()
        self._killed: Counter[int] = Counter()
        self._slowest: float | None = None
        self._drained = False

    @property
    def finished(self) -> bool:
        """Whether nothing is to be handed out and nothing to be waited for."""
        return not self.busy and (self._drained or not self._pending)

    @property
    def joined(self) -> int:
        """Actors that are there."""
        return len(self._loads)

    @property
    def busy(self) -> list[int]:
        """Actors that have something to do."""
        return [actor for actor, load in self._loads.items() if load.units]

    @property
    def left(self) -> int:
        """Units that are neither done nor quarantined."""
        return len(self._pending) + sum(len(load.units) for load in self._loads.values())

    def working_on(self, actor: int) -> int | None:
        """The unit that an actor works on."""
        load = self._loads.get(actor)
        return load.units[0] if load and load.units else None

    @property
    def in_progress(self) -> tuple[int, ...]:
        """The units that actors work on."""
        return tuple(load.units[0] for load in self._loads.values() if load.units)

    def attempt(self, unit: int) -> int:
        """The how-manieth time it is, or would be, that a unit is done."""
        return self._returned[unit] + 1

    def join(self, actor: int, now: float = 0.0, near: Iterable[int] = ()) -> None:
        """An actor is ready for work.

        Args:
            near: units that it does first, and others do last, because its node has a copy of their input.
        """
        load = self._loads[actor] = _Load(now, near=deque(near))
        for unit in load.near:
            if unit in self._pending:
                self._pending.move_to_end(unit)

    def next(self, now: float = 0.0) -> Assignment | None:
        """The next unit to hand out, or None when all actors are full or nothing is left."""
        if self._drained or not self._pending or not self._loads:
            return None
        actor, load = min(self._loads.items(), key=lambda item: len(item[1].units))
        if len(load.units) >= self.window:
            return None
        unit = self._take_for(load)
        if not load.units:
            load.since = now
        load.units.append(unit)
        return Assignment(actor, unit, self.attempt(unit))

    def finish(self, actor: int, unit: int, now: float = 0.0) -> None:
        """An actor has done a unit."""
        took = self._take(actor, unit, now)
        self._slowest = max(took, self._slowest or 0.0)
        self._forget(unit)
        self.done += 1

    def fail(self, actor: int, unit: int, reason: str, final: bool, now: float = 0.0) -> None:
        """A unit failed on an actor that is well.

        Args:
            final: it would fail again, whoever tried.
        """
        self._take(actor, unit, now)
        self._failed[unit] += 1
        if final or self._failed[unit] >= self.attempts:
            self._quarantine(unit, reason)
        else:
            self._returned[unit] += 1
            self._pending[unit] = None

    def leave(self, actor: int, reason: str, blame: bool = True) -> None:
        """An actor is gone; what it had goes back to the front.

        Args:
            blame: the unit it worked on may have been the cause, which is remembered.
        """
        load = self._loads.pop(actor, None)
        if load is None or not load.units:
            return
        units = load.units
        if blame:
            self._killed[units[0]] += 1
            if self._killed[units[0]] >= self.kills:
                self._quarantine(units.popleft(), f"{self.kills} actors were lost over it; the last: {reason}")
        self._returned.update(units)
        for unit in reversed(units):
            self._pending[unit] = None
            self._pending.move_to_end(unit, last=False)

    def overdue(self, now: float) -> dict[int, float]:
        """Actors that have worked on one unit for longer than any may take, and for how long."""
        limit = self.timeout
        if limit is None:
            limit = _FIRST if self._slowest is None else max(_SHORTEST, _FACTOR * self._slowest)
        return {actor: now - self._loads[actor].since for actor in self.busy if now - self._loads[actor].since > limit}

    def drain(self) -> None:
        """Hand out nothing more; what actors have may still be done."""
        self._drained = True

    def _take_for(self, load: _Load) -> int:
        """A unit that is near, else the first of all."""
        while load.near:
            unit = load.near.popleft()
            if unit in self._pending:
                del self._pending[unit]
                return unit
        return self._pending.popitem(last=False)[0]

    def _take(self, actor: int, unit: int, now: float) -> float:
        """A unit is off an actor's hands; how long it took."""
        load = self._loads[actor]
        took = now - load.since
        load.units.remove(unit)
        load.since = now
        return took

    def _quarantine(self, unit: int, reason: str) -> None:
        self.quarantined[unit] = reason
        self._forget(unit)

    def _forget(self, unit: int) -> None:
        for counter in (self._returned, self._failed, self._killed):
            counter.pop(unit, None)
