"""An atlas of each released format, as the version that introduced the format wrote it, is read and continued.

Each file holds ``shards/``, ``network/`` and ``atlas/``. Their paths begin with ``/proc/self/cwd``, the working folder.
``part-1`` has an image that cannot be decoded.
"""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.run import INLINE, run
from pipeline.run.extend import extend
from pipeline.run.plan import plan
from pipeline.run.recompute_maps import recompute
from pipeline.store import Atlas
from pipeline.store.verify import verify
from schemas.layout import FORMAT

STORED = sorted(Path(__file__).parent.glob("*.tar.gz"))


@pytest.fixture(params=STORED, ids=lambda path: path.name.partition(".")[0])
def stored(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a stored atlas, which is the working folder."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "atlas"


def test_the_present_format_is_stored() -> None:
    assert f"format-{FORMAT}.tar.gz" in [path.name for path in STORED]


def test_a_stored_atlas_opens_and_verifies(stored: Path) -> None:
    atlas = Atlas.open(str(stored))
    assert atlas.methods == ("legrad", "reciprocam", "center")
    assert atlas.samples(["key", "status"])["status"].to_pylist() == ["ok"] * 4 + ["undecodable"] + ["ok"] * 2
    assert atlas.map("s3", "legrad", "predicted").shape == (4, 4)
    verified = verify(atlas)
    assert (verified.faults, verified.missing, verified.objects) == ([], 0, 20)
    again = recompute(atlas, 6)
    assert (again.faults, again.maps) == ([], 6 * 2 * 3)


def test_a_stored_atlas_is_planned_again_and_resumed(stored: Path) -> None:
    before = Atlas.open(str(stored))
    record = before.record("part-1")
    (stored / "commits" / "part-1.json").unlink()
    assert plan(before.run.spec, str(stored)).run_hash == before.run.run_hash
    atlas = run(str(stored), INLINE)
    assert atlas.record("part-1").statuses == record.statuses
    assert atlas.record("part-1").run_hash == record.run_hash
    assert verify(atlas).faults == []


def test_a_stored_atlas_is_extended(stored: Path) -> None:
    commit = (stored / "commits" / "part-1.json").read_bytes()
    atlas = extend(str(stored), ["rollout"], options=INLINE)
    assert atlas.methods == ("legrad", "reciprocam", "center", "rollout")
    assert verify(atlas).faults == []
    assert np.isfinite(atlas.map("s3", "rollout")).all()
    assert (stored / "commits" / "part-1.json").read_bytes() == commit
