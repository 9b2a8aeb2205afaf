"""What the tests of audits share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from some_audit import PUBLICATION

from pipeline.audit.make import Extent, audit
from pipeline.demo.world import World
from pipeline.store import Atlas

SMALL = Extent(images=6, sanity=4, recompute=32, pictures=False)


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    """A few small tars are done sooner than a process starts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "cpu_count", lambda: 1)
        yield


@pytest.fixture(scope="session")
def published(atlas: Atlas, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas with an audit within that has all that an audit may have: its folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("published") / "atlas"
    shutil.copytree(atlas.objects.url, folder)
    out = folder / "audit" / "label"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "cpu_count", lambda: 1)
        audit(str(folder), truth=str(world.truth), extent=SMALL, publication=PUBLICATION)
    return out
