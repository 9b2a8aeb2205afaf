"""SIGINT and SIGTERM: a run that is told to stop, and one that is told twice."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class GracefulShutdown:
    """Whether this run is to come to its end.

    The first signal is only noted while somebody heeds it; any other raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.asked = False
        self._heeded = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take both signals. Only the main thread of a process is sent any."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """In here ``asked`` is looked at every few moments."""
        self._heeded = True
        try:
            yield
        finally:
            self._heeded = False

    def _hear(self, number: int, frame: object) -> None:
        if self.asked or not self._heeded:
            raise KeyboardInterrupt
        self.asked = True
