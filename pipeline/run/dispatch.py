"""Which unit goes to which actor. A pure state machine: no Ray, no clock, no I/O."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Assignment:
    """A unit that an actor is to do, for the how-manieth time."""

    actor: int
    unit: int
    attempt: int


class Dispatcher:
    """Hands units to actors until each is done or set aside, each exactly once.

    Args:
        units: to be done, in this order.
        window: units that an actor has at a time: the one it works on and those it finds when that is done.
        attempts: after so many failures a unit is set aside.
        kills: after so many actors died while working on it, likewise. An actor's death does not count as
            a failure of its unit: most deaths are the machine's.
    """

    def __init__(self, units: Iterable[int], window: int = 2, attempts: int = 3, kills: int = 3) -> None:
        self.window, self.attempts, self.kills = window, attempts, kills
        self.done: set[int] = set()
        self.set_aside: dict[int, str] = {}
        self._pending = deque(units)
        self._actors: dict[int, deque[int]] = {}
        self._started: Counter[int] = Counter()
        self._failed: Counter[int] = Counter()
        self._killed: Counter[int] = Counter()

    @property
    def finished(self) -> bool:
        """Whether every unit is done or set aside."""
        return not self._pending and not any(self._actors.values())

    def join(self, actor: int) -> None:
        """An actor is ready for work."""
        self._actors[actor] = deque()

    def next(self) -> Assignment | None:
        """The next unit to hand out, or None when all actors are full or nothing is left."""
        if not self._pending or not self._actors:
            return None
        actor = min(self._actors, key=lambda name: len(self._actors[name]))
        if len(self._actors[actor]) >= self.window:
            return None
        unit = self._pending.popleft()
        self._actors[actor].append(unit)
        self._started[unit] += 1
        return Assignment(actor, unit, self._started[unit])

    def finish(self, actor: int, unit: int) -> None:
        """An actor has done a unit."""
        self._actors[actor].remove(unit)
        self.done.add(unit)

    def fail(self, actor: int, unit: int, reason: str, final: bool) -> None:
        """A unit failed on an actor that is well.

        Args:
            final: it would fail again, whoever tried.
        """
        self._actors[actor].remove(unit)
        self._failed[unit] += 1
        if final or self._failed[unit] >= self.attempts:
            self.set_aside[unit] = reason
        else:
            self._pending.append(unit)

    def leave(self, actor: int, reason: str) -> None:
        """An actor is gone; what it had goes back to the front, and what it worked on is remembered."""
        units = self._actors.pop(actor, deque())
        if units:
            self._killed[units[0]] += 1
            if self._killed[units[0]] >= self.kills:
                unit = units.popleft()
                self.set_aside[unit] = f"{self.kills} actors died while working on it; the last: {reason}"
        self._pending.extendleft(reversed(units))
