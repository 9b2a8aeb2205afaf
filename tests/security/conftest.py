"""What strangers send: things that act when they are unpickled, and a watch over what happens then."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """The folder that tests work in: nothing may appear there, or beside it, but below ``inside``."""
    (tmp_path / "inside").mkdir()
    before = _everything(tmp_path)
    yield tmp_path
    assert _everything(tmp_path) - before == set()


def _everything(folder: Path) -> set[str]:
    beside = {str(path) for path in folder.parent.iterdir()}
    return beside | {str(path) for path in folder.rglob("*") if "inside" not in path.relative_to(folder).parts}


@pytest.fixture
def inside(outside: Path) -> Path:
    """Where commands may write, and where their input stands."""
    return outside / "inside"


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.marker), os.O_CREAT)


@pytest.fixture
def marker(outside: Path) -> object:
    """An object that makes a file outside when it is unpickled."""
    return _Bomb(outside / "marker")


@pytest.fixture
def bomb(marker: object) -> bytes:
    """A pickle that makes a file outside when it is loaded."""
    return pickle.dumps(marker, protocol=2)  # of later ones torch only says that they are odd
