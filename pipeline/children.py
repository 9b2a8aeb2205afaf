"""Processes that end with the one that they work for."""

import os
from multiprocessing import parent_process
from threading import Thread


def end_with_parent() -> None:
    """End this process once the one that started it is gone, however that ended: what a pool calls in each of its own.

    A pool's process holds both ends of the pipe that its work comes by, so after ``kill -9`` of its parent it would
    wait for ever; one from a fork server is no child of that parent either, so the kernel tells it nothing.
    """
    Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)  # whatever it is at, nobody waits for it
