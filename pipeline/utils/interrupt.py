"""Interruption at a chosen point instead of anywhere."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class InterruptRequest:
    """Request to stop, by Ctrl-C or SIGTERM.

    Attributes:
        is_set: True once a signal has come.
    """

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; a second one stops at once, as usual."""
        if self.is_set:
            signal.default_int_handler(number, frame)
        self.is_set = True


@contextmanager
def deferred_interrupt() -> Iterator[InterruptRequest]:
    """Defer the first Ctrl-C or SIGTERM to where the caller looks for it. In other threads nothing changes."""
    request = InterruptRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
