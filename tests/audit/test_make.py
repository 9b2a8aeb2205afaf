"""An audit is whole, says the same again, and vouches for every byte of itself."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.audit.make import Extent, audit
from pipeline.audit.manifest import check
from pipeline.demo.world import World
from pipeline.label import label
from pipeline.store import Atlas
from pipeline.store.verify import verify
from schemas import audit as schemas
from schemas.policy import Cut, Policy

NOTHING = Extent(0, 0, 0, pictures=False)
EXTENT = Extent(images=6, sanity=2, recompute=32)
SCHEMAS = {
    "methods": schemas.METHODS,
    "agreement": schemas.AGREEMENT,
    "shortcuts": schemas.SHORTCUTS,
    "clusters": schemas.CLUSTERS,
    "members": schemas.MEMBERS,
    "lineage": schemas.LINEAGE,
    "images": schemas.IMAGES,
    "pairs": schemas.PAIRS,
}


@pytest.fixture(scope="module")
def audited(atlas: Atlas, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas with labels, and its audit within."""
    folder = tmp_path_factory.mktemp("audited") / "atlas"
    shutil.copytree(atlas.objects.url, folder)
    policy = Policy(name="otsu", methods=("legrad",), cut=Cut(kind="otsu"))
    label(str(folder), policy, ["png"], str(folder / "labels" / "otsu"))
    audit(str(folder), truth=str(world.truth), extent=EXTENT)
    return folder


@pytest.mark.parametrize("name", SCHEMAS)
def test_its_tables_are_as_their_schema_says(audited: Path, name: str) -> None:
    path = audited / "audit" / "label"
    table = pq.read_table(path / name if (path / name).is_dir() else path / f"{name}.parquet")
    assert table.schema.names == SCHEMAS[name].names
    assert len(table)
    for field in SCHEMAS[name]:
        assert field.nullable or not table[field.name].null_count, field.name


def test_it_vouches_for_every_object_and_the_atlas_is_still_whole(audited: Path) -> None:
    folder = audited / "audit" / "label"
    assert check(str(folder)) == []
    assert verify(str(audited)).faults == []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        name = str(path.relative_to(folder))
        assert [fault.split(":")[0] for fault in check(str(folder))] == [name]
        path.write_bytes(data)


def test_the_same_audit_again_has_the_same_root(audited: Path, world: World) -> None:
    folder = audited / "audit" / "label"
    root = json.loads((folder / "manifest.json").read_text())["root"]
    assert audit(str(audited), truth=str(world.truth), extent=EXTENT).manifest.root == root
    assert check(str(folder), root) == []


def test_labels_of_other_maps_are_told_of_and_stand_in_the_lineage(audited: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(audited, tmp_path / "copy")
    path = next((copy / "labels" / "otsu" / "commits").iterdir())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parent": "sha256:0"}))
    said: list[str] = []
    audit(str(copy), str(tmp_path / "out"), extent=NOTHING, say=said.append)
    (fault,) = (line for line in said if "made of other maps" in line)
    assert fault.startswith(f"labels/otsu: {path.stem} was")
    assert "sha256:0" in pq.read_table(tmp_path / "out" / "lineage.parquet")["parent"].to_pylist()
