"""Fixtures of the tests of scores."""

from collections.abc import Iterator

import pytest
from support import in_one_process


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    with in_one_process():
        yield


@pytest.fixture(scope="module")
def without_plots() -> Iterator[None]:
    """Draw nothing, which takes a second for each table; other modules draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.score.localization_table.plot_scores", lambda *_: (b"PNG", b"PDF"))
        yield
