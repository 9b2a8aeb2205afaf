"""Whatever the program: an export is made once, gone on with, the same again, and never written over another."""

import json
import shutil
from pathlib import Path

import pytest
from support import crash_after

from pipeline.audit.exports import EXPORTERS
from pipeline.audit.exports.export_audit import export_audit
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.store import Atlas, ObjectStore
from pipeline.truth import read_truth
from schemas.errors import UsageError

TABLES = ("about.json", "members.parquet", "shortcuts.parquet")
KINDS = pytest.mark.parametrize("kind", EXPORTERS)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@KINDS
def test_an_export_that_was_stopped_anywhere_becomes_the_same_as_one_that_was_not(
    atlas: Atlas, audit: Path, world: SyntheticDataset, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TABLES:
        shutil.copy(audit / name, tmp_path)
    for count in (1, 4, 9, 15, 18):
        with crash_after(count, monkeypatch):
            export_audit(atlas, str(tmp_path), kind, truth=read_truth(world.truth))
        (tmp_path / kind / "lease.json").unlink(missing_ok=True)
    export_audit(atlas, str(tmp_path), kind, truth=read_truth(world.truth))
    assert contents(tmp_path / kind) == contents(audit / kind)


@KINDS
def test_an_export_to_a_store_that_is_no_folder_is_the_same(
    atlas: Atlas, audit: Path, world: SyntheticDataset, kind: str, tmp_path: Path
) -> None:
    store = ObjectStore(f"memory:/{tmp_path}")
    for name in TABLES:
        store.put(name, (audit / name).read_bytes())
    export_audit(atlas, store.url, kind, truth=read_truth(world.truth))
    there = {
        name.removeprefix(f"{kind}/"): store.get(name) for name, _ in store.list_all() if name.startswith(f"{kind}/")
    }
    assert there == contents(audit / kind)


@KINDS
def test_only_a_tar_of_which_something_is_gone_is_made_again(
    atlas: Atlas, audit: Path, world: SyntheticDataset, kind: str, tmp_path: Path
) -> None:
    out = shutil.copytree(audit, tmp_path / "out")
    before = contents(out / kind)
    first, second = (
        [each["path"] for each in json.loads((out / kind / "commits" / f"{shard}.json").read_text())["objects"]]
        for shard in atlas.commits
    )
    times = {name: (out / kind / name).stat().st_mtime_ns for name in (*first, *second)}
    (out / kind / second[0]).unlink()
    export_audit(atlas, str(out), kind, truth=read_truth(world.truth))
    assert contents(out / kind) == before
    assert all((out / kind / name).stat().st_mtime_ns == times[name] for name in first)
    assert all((out / kind / name).stat().st_mtime_ns != times[name] for name in second)


@KINDS
def test_an_export_of_something_else_is_not_written_over(
    atlas: Atlas, audit: Path, world: SyntheticDataset, kind: str
) -> None:
    before = contents(audit / kind)
    with pytest.raises(UsageError, match=r"holds something else \(methods is .*; name another --out"):
        export_audit(atlas, str(audit), kind, methods=["legrad"], truth=read_truth(world.truth))
    assert contents(audit / kind) == before


def test_what_cannot_be_exported_is_refused_with_the_mend(atlas: Atlas, audit: Path) -> None:
    with pytest.raises(UsageError, match="no export to 'captum'; there are virelay, quantus"):
        export_audit(atlas, str(audit), "captum")
    with pytest.raises(UsageError, match="no maps of 'rise'"):
        export_audit(atlas, str(audit), "quantus", methods=["rise"])
    with pytest.raises(UsageError, match="has 10 classes, not the 2 that are named"):
        export_audit(atlas, str(audit), "quantus", classes=["a", "b"])
