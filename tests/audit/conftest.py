"""What the tests of audits share."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    """A few small tars are done sooner than a process starts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "cpu_count", lambda: 1)
        yield
