"""What decodes pictures beside the network: a thread, or processes, of which any may die."""

import errno
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.image import Frame
from pipeline.read.decode import Picture, Undecodable, decode
from pipeline.utils.process_pool import make_process_pool

_PATIENCE = 120.0
"""Seconds after which a process is taken for lost. What ``decode`` accepts takes a tenth of it."""
_TRIES = 3
_STARTS = 7
"""Attempts to start a process, over six seconds: a server of processes that was killed takes a moment to be gone."""
_LOST = (BrokenProcessPool, CancelledError)
"""What comes of the pictures of a process that dies."""
_EASY = b"P5 1 1 255\n\0"
_ANY_FRAME = Frame(1, 1, "nearest", "squash", 1.0, "center")


class Decoding(Protocol):
    """What decodes the pictures of ``batches``: here, or on the device of a network."""

    def submit(self, data: bytes, frame: Frame) -> Any:
        """Begin to decode a picture; what comes back is for ``gather``."""

    def gather(self, pending: Sequence[Any], frame: Frame) -> tuple[Any, list[Picture | str | None]]:
        """End what was begun for a batch, of which None is no picture.

        Returns:
            uint8 [B, 3, H, W], black where there is no picture; and each picture, or why there is none.

        Raises:
            OSError: there is no memory, or whatever decodes does not live long enough.
        """


class Decoders:
    """Decodes pictures in the order in which they are asked for.

    When a process dies, or hangs, all that were under way are decoded again, each alone, so that a picture
    that kills its decoder is told apart from those beside it.

    Args:
        processes: 0 is one thread, for a caller that is itself one of many processes.
    """

    def __init__(self, processes: int = 0) -> None:
        self.processes = processes
        self.pool = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, data: bytes, frame: Frame) -> "Begun":
        """Begin to decode a picture."""
        return Begun(self, data, frame)

    def gather(
        self, pending: "Sequence[Begun | None]", frame: Frame
    ) -> tuple[NDArray[np.uint8], list[Picture | str | None]]:
        """See ``Decoding``; the pixels are a NumPy array."""
        pixels = np.zeros((len(pending), 3, frame.height, frame.width), np.uint8)
        results = [begun.result() if begun else None for begun in pending]
        for place, result in enumerate(results):
            if isinstance(result, Picture):
                pixels[place] = result.pixels
        return pixels, results

    def restart(self) -> None:
        """Give up the processes that there are, whatever they are doing."""
        self.close()
        self.pool = self._start()

    def probe(self) -> None:
        """Make sure that it is a picture that decoders die of, and not the machine.

        Raises:
            OSError: they die of an easy one as well.
        """
        self.restart()
        try:
            self.begin(_EASY, _ANY_FRAME).result(_PATIENCE)
        except (*_LOST, TimeoutError) as error:
            raise OSError(errno.EIO, f"decoders die whatever they are given ({type(error).__name__})") from error

    def begin(self, data: bytes, frame: Frame) -> "Future[Picture | str]":
        """Give a picture to whoever is free.

        Raises:
            OSError: no process can be started.
        """
        for attempt in range(_STARTS):
            try:
                return self.pool.submit(_decode, data, frame)
            except BrokenProcessPool as error:
                lost: Future[Picture | str] = Future()
                lost.set_exception(error)
                return lost
            except (EOFError, OSError):
                # It may have been started, unknown to the pool, and take pictures that nobody sees again.
                self.restart()
                time.sleep(0.05 * 2**attempt)
        raise OSError(errno.EIO, "no process can be started that decodes")

    def close(self) -> None:
        """Stop at once."""
        # Its own way of stopping would wait for a process that hangs.
        living = list((getattr(self.pool, "_processes", None) or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in living:
            process.kill()

    def _start(self) -> Executor:
        return make_process_pool(self.processes, __name__) if self.processes else _Thread()


class _Thread(Executor):
    """One thread, for whose last picture no exit of the process waits."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        while cancel_futures and not self._calls.empty():
            if call := self._calls.get():
                call[0].cancel()
        self._calls.put(None)

    def _work(self) -> None:
        while call := self._calls.get():
            future, function = call
            try:
                future.set_result(function())
            except BaseException as error:  # it belongs to whoever waits for the result
                future.set_exception(error)


class Begun:
    """A picture that is being decoded."""

    def __init__(self, decoders: Decoders, data: bytes, frame: Frame) -> None:
        self._decoders, self._data, self._frame = decoders, data, frame
        self._begin()

    def _begin(self) -> None:
        self._future = self._decoders.begin(self._data, self._frame)
        self._pool = self._decoders.pool

    def result(self) -> Picture | str:
        """The picture, or why there is none.

        Raises:
            OSError: there is no memory, or no decoder lives long enough, whatever it is given.
        """
        for _ in range(_TRIES):
            try:
                return self._future.result(_PATIENCE if self._decoders.processes else None)
            except MemoryError:
                raise OSError(errno.ENOMEM, "there is not enough memory to decode a picture") from None
            except TimeoutError:
                reason = f"its decoder had not come to an end after {_PATIENCE:.0f} s"
            except _LOST:
                reason = "its decoder died"
            if self._pool is self._decoders.pool:
                self._decoders.restart()
            self._begin()
        self._decoders.probe()
        return f"{reason}, {_TRIES} times"


def _decode(data: bytes, frame: Frame) -> Picture | str:
    """A picture, or why there is none: what a process can hand back without raising."""
    try:
        return decode(data, frame)
    except Undecodable as error:
        return str(error)
