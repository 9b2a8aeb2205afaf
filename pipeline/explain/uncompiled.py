"""Run what ``torch.compile`` compiled as the code that it was compiled from."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch

_LOCK = Lock()
_USERS: list[object] = []
_STANCE = ExitStack()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled functions as if they were not, in all threads, until the last one leaves the context.

    Modes of torch functions see the code of a compiled function at most once, while it is compiled. Torch has one
    stance for the process, and threads need not leave in the order in which they entered.
    """
    user = object()
    with _LOCK:
        if not _USERS:
            _STANCE.enter_context(torch.compiler.set_stance("force_eager"))
        _USERS.append(user)
    try:
        yield
    finally:
        with _LOCK:
            _USERS.remove(user)
            if not _USERS:
                _STANCE.close()
