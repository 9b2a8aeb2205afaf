"""Graceful shutdown: the first SIGINT or SIGTERM drains running shards, the second aborts."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class GracefulShutdown:
    """Handler of SIGINT and SIGTERM.

    The first signal sets ``requested`` while the flag is polled; any other raises KeyboardInterrupt.

    Attributes:
        requested: the run is to stop.
    """

    def __init__(self) -> None:
        self.requested = False
        self._polled = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals. Only the main thread of a process gets any."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def polled(self) -> Iterator[None]:
        """Declare that ``requested`` is polled every few moments in this block."""
        self._polled = True
        try:
            yield
        finally:
            self._polled = False

    def _handle(self, number: int, frame: object) -> None:
        if self.requested or not self._polled:
            raise KeyboardInterrupt
        self.requested = True
