"""An atlas whose audit was exported to every program there is."""

from pathlib import Path

import pytest

from pipeline.audit.exports import EXPORTERS
from pipeline.audit.exports.export_audit import export_audit
from pipeline.audit.shortcuts import find_shortcuts
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.store import Atlas, ObjectStore
from pipeline.store.parquet import to_parquet
from pipeline.truth import read_truth
from schemas.audit_records import AuditSpec
from schemas.run import TargetKind


def tables(url: str, out: Path, target: TargetKind = "label") -> None:
    """What exports need of an audit."""
    found, atlas = find_shortcuts(Atlas.open(url), target), Atlas.open(url)
    about = AuditSpec(run=atlas.run.run_hash, target=target, methods=atlas.methods)
    ObjectStore(str(out)).put("about.json", about.to_bytes())
    for name, table in (("shortcuts", found.classes), ("members", found.members)):
        ObjectStore(str(out)).put(f"{name}.parquet", to_parquet(table))


@pytest.fixture(scope="module")
def audit(
    atlas: Atlas, world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory, in_this_process: None
) -> Path:
    """Folder of an audit with every export in it."""
    out = tmp_path_factory.mktemp("audit")
    tables(atlas.objects.url, out)
    for kind in EXPORTERS:
        export_audit(atlas, str(out), kind, truth=read_truth(world.truth))
    return out
