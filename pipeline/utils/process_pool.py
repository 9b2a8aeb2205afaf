"""Process pool that ends with its parent, and in bounded time."""

import atexit
import errno
import os
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any
from weakref import WeakSet

from pipeline.utils.shares import set_listener

EXIT_SECONDS = 5.0
"""Seconds that a pool waits for its processes at its end, before and after it kills them."""
_START_ATTEMPTS = 7
"""Over six seconds: a fork server that was killed takes a moment to disappear."""
_CONTEXT = get_context("forkserver")
_STARTING = Lock()
"""Held while a process starts: multiprocessing polls all others then, which is not safe in two threads."""


class ProcessPool(Executor):
    """Executor in processes that are forked from a server, which imports a module once for all of them.

    They are not forked from this process: it may have threads, with which a fork may hang. They do not import modules
    from the working folder, which may hold anything.

    A thread for each process starts it with the first call, feeds it and waits for it: no signal interrupts a start,
    and a process that dies breaks only its own call, with BrokenProcessPool. The next call gets a new process. Left by
    an exception, the pool kills its processes; so it does at the exit of the interpreter.

    Args:
        count: number of processes.
        preload: module that the server imports, if it has not started yet.
        on_share: called with the shares that a call reports, see ``pipeline.utils.shares``; in the thread that awaits
            the call.
    """

    def __init__(self, count: int, preload: str, on_share: Callable[[float], None] = lambda share: None) -> None:
        os.environ["PYTHONSAFEPATH"] = "1"
        _CONTEXT.set_forkserver_preload([preload])
        self._environment, self._on_share = dict(os.environ), on_share
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._processes: set[_Process] = set()
        self._closed = self._stopped = False
        self._submitting = Lock()
        self._threads = [Thread(target=self._serve, daemon=True) for _ in range(count)]
        _POOLS.add(self)
        for thread in self._threads:
            thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.shutdown()
        else:
            self.stop()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a picklable function in one of the processes.

        Raises:
            RuntimeError: the pool is closed.
        """
        future: Future[Any] = Future()
        with self._submitting:
            if self._closed:
                raise RuntimeError("the process pool is closed")
            self._calls.put((future, (fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end each process when none is left for it.

        Args:
            wait: until all are done.
            cancel_futures: cancel the calls that have not begun.
        """
        if cancel_futures:
            self._cancel()
        with self._submitting:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._calls.put(None)
        try:
            for thread in self._threads if wait else ():
                thread.join()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill the processes, and wait for their end no longer than ``EXIT_SECONDS``."""
        self._stopped = True
        self.shutdown(wait=False, cancel_futures=True)
        self.kill()
        deadline = time.monotonic() + EXIT_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """Kill the processes without a wait."""
        for process in tuple(self._processes):
            process.kill()

    def _cancel(self) -> None:
        while True:
            try:
                call = self._calls.get_nowait()
            except Empty:
                return
            if call:
                call[0].cancel()
            else:
                self._calls.put(None)
                return  # the calls end here

    def _serve(self) -> None:
        process: _Process | None = None
        while call := self._calls.get():
            future, work = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                process = process or self._start()
                succeeded, value = process.call(work, self._on_share)
            except (EOFError, ConnectionError) as error:
                self._end(process)
                process = None
                broken = BrokenProcessPool("the process of the call died")
                broken.__cause__ = error
                future.set_exception(broken)
            except BaseException as error:  # raised again where the result is awaited
                future.set_exception(error)
            else:
                (future.set_result if succeeded else future.set_exception)(value)
                del value
            del call, future, work
        self._end(process)

    def _start(self) -> "_Process":
        for attempt in range(_START_ATTEMPTS):
            if self._stopped:
                raise EOFError
            try:
                with _STARTING:
                    process = _Process(self._environment)
            except (EOFError, OSError):
                time.sleep(0.05 * 2**attempt)
                continue
            self._processes.add(process)
            if self._stopped:  # without knowing of this one
                process.kill()
            return process
        raise OSError(errno.EIO, "no process can be started; check memory and the limit of processes")

    def _end(self, process: "_Process | None") -> None:
        if process:
            if self._stopped:
                process.kill()
            process.end()
            self._processes.discard(process)


_Call = tuple[Future[Any], tuple[Any, ...]]
_POOLS: WeakSet[ProcessPool] = WeakSet()


@atexit.register  # after that of multiprocessing, so before it, which would wait without end
def stop_pools() -> None:
    """End the processes of all pools in bounded time."""
    for pool in tuple(_POOLS):
        pool.stop()


def kill_pools() -> None:
    """Kill the processes of all pools without a wait."""
    for pool in tuple(_POOLS):
        pool.kill()


class _Process:
    """One process, and the connection to it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._connection, remote = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(remote, environment))
        try:
            self._process.start()
        except BaseException:
            self._connection.close()
            raise
        finally:
            remote.close()  # so that the end of the process ends the connection

    def call(self, work: tuple[Any, ...], on_share: Callable[[float], None]) -> tuple[bool, Any]:
        self._connection.send(work)
        while True:
            message = self._connection.recv()
            if isinstance(message, float):
                on_share(message)
                continue
            succeeded, value = message
            return succeeded, value

    def kill(self) -> None:
        with suppress(ValueError):  # it has ended, and its thread knows
            self._process.kill()

    def end(self) -> None:
        self._connection.close()  # tells the process to end
        self._process.join(EXIT_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(EXIT_SECONDS)
        if not self._process.is_alive():
            self._process.close()


def _work(calls: "Connection[Any, Any]", environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)  # that of the server is from its start
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its processes
    # A process that computes does not notice the end of its parent, and is not its child but that of the server.
    Thread(target=_exit_with_parent, daemon=True).start()
    set_listener(partial(_send_share, calls))
    while True:
        try:
            call = calls.recv_bytes()
        except (EOFError, ConnectionError):  # the parent needs it no longer
            return
        result: tuple[bool, Any]
        try:
            function, args, kwargs = ForkingPickler.loads(call)
            result = True, function(*args, **kwargs)
        except BaseException as error:
            error.add_note(traceback.format_exc())
            result = False, error
        try:
            calls.send(result)
        except ConnectionError:
            return
        except Exception as error:  # nothing was sent: the result cannot be pickled
            calls.send((False, RuntimeError(f"the result cannot be sent: {error}")))


def _send_share(calls: "Connection[Any, Any]", share: float) -> None:
    with suppress(ConnectionError):  # the parent needs it no longer, as the end of the call will show
        calls.send(share)


def _exit_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)  # no process waits for its results
