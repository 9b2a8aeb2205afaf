"""Fixtures of the tests of scores."""

from collections.abc import Iterator

import pytest
from support import in_one_process


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    with in_one_process():
        yield
