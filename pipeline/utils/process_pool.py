"""Processes that work for this one, and end with it."""

import os
import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread


def make_process_pool(count: int, needs: str) -> ProcessPoolExecutor:
    """Processes that are forked from a server, so that what they need is imported once and not by each.

    They are not forked from here: this process may have threads, and a fork of those may hang. Nor do they import
    what lies in the working folder, which may be anything.

    Args:
        needs: module that the server begins with, if it has not begun.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    context = get_context("forkserver")
    context.set_forkserver_preload([needs])
    return ProcessPoolExecutor(count, context, initializer=_begin, initargs=(dict(os.environ),))


def _begin(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)  # the server's is of when it began
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent: what its children are at is finished
    # A pool's process holds both ends of the pipe that its work comes by, so after kill -9 of its parent it would wait
    # for ever; it is no child of that parent either, so the kernel tells it nothing.
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)  # whatever it is at, nobody waits for it
