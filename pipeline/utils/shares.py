"""Progress within a piece of work: from the process that does it to the one that shows it.

A function that ``parallel_map`` calls says which share of its item is done. Where nobody listens, as on a Ray cluster,
that does nothing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

_INTERVAL = 0.2
"""Seconds between two messages; what is said in between is added up."""


class _Shares:
    """Shares of the item that this process works on.

    Attributes:
        listener: called with a share; None: nobody listens.
    """

    def __init__(self) -> None:
        self.listener: Callable[[float], None] | None = None
        self._unsent = self._sent = self._last = 0.0

    def report(self, share: float) -> None:
        self._unsent += share
        now = time.monotonic()
        if self.listener and (not share or now - self._last >= _INTERVAL):
            self.listener(self._unsent)
            self._sent += self._unsent
            self._unsent, self._last = 0.0, now

    def take(self) -> float:
        """Return what was sent since the last call, and forget the rest."""
        sent, self._sent, self._unsent = self._sent, 0.0, 0.0
        return sent


_SHARES = _Shares()


def report_share(share: float) -> None:
    """Say that a share of the item is done, in (0, 1]; 0 says that preparations are done and the work begins."""
    _SHARES.report(share)


def with_shares(parts: Sequence[T]) -> Iterator[T]:
    """Yield the parts of an item that take equally long, and report the share of each when the next one is taken."""
    report_share(0)
    for part in parts:
        yield part
        report_share(1 / len(parts))


def set_listener(listener: Callable[[float], None] | None) -> None:
    """Let a function hear the shares that are reported in this process; None: no one does."""
    _SHARES.listener = listener


def take_sent_shares() -> float:
    """Return the sum of what was heard since the last call."""
    return _SHARES.take()
