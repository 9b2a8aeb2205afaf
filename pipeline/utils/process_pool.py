"""Process pool whose workers exit with their parent."""

import os
import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread


def make_process_pool(count: int, preload: str) -> ProcessPoolExecutor:
    """Return a pool of processes that are forked from a server, which imports a module once for all of them.

    They are not forked from this process: it may have threads, with which a fork may hang. They do not import modules
    from the working folder, which may hold anything.

    Args:
        count: number of processes.
        preload: module that the server imports, if it has not started yet.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    context = get_context("forkserver")
    context.set_forkserver_preload([preload])
    return ProcessPoolExecutor(count, context, initializer=_initialize, initargs=(dict(os.environ),))


def _initialize(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)  # that of the server is from its start
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent: its children finish their work
    # A worker holds both ends of its work pipe, and is not a child of its parent process but of the server: it gets no
    # signal when the parent is killed, and would wait for ever. A watchdog thread exits it.
    Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)  # no process waits for its results
