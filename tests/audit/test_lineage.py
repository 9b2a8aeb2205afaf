"""The chain from pictures to labels and tables is whole, and where it is broken that is named."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import copy_atlas

from pipeline.audit.map_tables import write_map_tables
from pipeline.audit.publication.lineage import MAPS, build_lineage_table, find_lineage_faults
from pipeline.label import label
from pipeline.store import Atlas
from pipeline.store.derived import content_hash
from pipeline.store.parquet import to_parquet
from schemas.audit_tables import LINEAGE
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.labels import LabelingSpec
from schemas.policy import Policy, Threshold

POLICY = Policy(name="otsu", methods=("legrad",), threshold=Threshold(kind="otsu"))


TARS = 2


@pytest.fixture(scope="module")
def made(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an atlas that holds labels and audit tables, and with labels elsewhere."""
    folder = tmp_path_factory.mktemp("made")
    there = folder / "atlas"
    copy_atlas(atlas.objects.url, there)
    label(Atlas.open(str(there)), POLICY, ["parquet"], str(there / "labels" / "otsu"))
    label(Atlas.open(str(there)), POLICY, ["png"], str(folder / "elsewhere"))
    write_map_tables(Atlas.open(str(there)), str(there / "audit" / "label"))
    return folder


@pytest.fixture
def audited(made: Path, tmp_path: Path) -> Path:
    """That atlas, to be damaged."""
    return shutil.copytree(made / "atlas", tmp_path / "atlas")


def test_every_product_of_every_tar_is_made_of_its_maps_and_these_of_its_pictures(audited: Path, made: Path) -> None:
    elsewhere = str(made / "elsewhere")
    table = build_lineage_table(Atlas.open(str(audited)), [elsewhere], str(audited / "audit" / "label"))
    assert table.schema.names == LINEAGE.names
    atlas, rows = Atlas.open(str(audited)), table.to_pylist()
    assert [row["product"] for row in rows] == [MAPS, "labels/otsu", "audit", "elsewhere/elsewhere"] * TARS
    for row in rows:
        commit = atlas.commits[row["shard"]]
        if row["product"] == MAPS:
            pictures = atlas.samples_of(row["shard"])
            columns = [pictures["key"].to_pylist(), pictures["image_sha256"].to_pylist()]
            assert row["parent_hash"] == sha256(json.dumps(columns).encode())
            assert (row["settings_hash"], row["content_hash"]) == (atlas.run.run_hash, content_hash(commit))
            assert (row["objects"], row["bytes"]) == (len(commit.objects), sum(each.size for each in commit.objects))
            assert row["commit_hash"] == sha256((audited / "commits" / f"{row['shard']}.json").read_bytes())
        else:
            assert row["parent_hash"] == content_hash(commit)
    assert len({row["parent_hash"] for row in rows if row["product"] == MAPS}) == TARS
    about = LabelingSpec.read((made / "elsewhere" / "policy.json").read_bytes(), "policy.json")
    assert about.hash == POLICY.digest()
    assert {row["settings_hash"] for row in rows if "elsewhere" in row["product"]} == {about.digest()}
    assert find_lineage_faults(Atlas.open(str(audited)), [elsewhere]) == []


@pytest.mark.parametrize(("product", "place"), [("labels/otsu", "labels/otsu"), ("audit", "audit/label")])
def test_a_product_of_other_maps_is_named(audited: Path, product: str, place: str) -> None:
    path = audited / place / "commits" / "demo-validation-01.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"parent": sha256(b"other maps")}))
    (fault,) = find_lineage_faults(Atlas.open(str(audited)), out=str(audited / "audit" / "label"))
    assert fault.startswith(f"{product}: demo-validation-01 was made of other maps")


def test_labels_of_other_pictures_are_named(audited: Path) -> None:
    path = audited / "labels" / "otsu" / "labels" / "demo-validation-00.parquet"
    table = pq.read_table(path)
    hashes = table["image_sha256"].to_pylist()
    hashes[2] = sha256(b"another")
    place = table.column_names.index("image_sha256")
    path.write_bytes(to_parquet(table.set_column(place, "image_sha256", pa.array(hashes))))
    (fault,) = find_lineage_faults(Atlas.open(str(audited)))
    assert fault.startswith(
        "labels/otsu: demo-validation-00: the label of scene_000002 (row 2) belongs to another image"
    )


@pytest.mark.parametrize("damage", [b"", b"{}", b"not JSON"])
def test_what_cannot_be_read_is_named(audited: Path, damage: bytes) -> None:
    (audited / "labels" / "otsu" / "commits" / "demo-validation-00.json").write_bytes(damage)
    (audited / "labels" / "otsu" / "labels" / "demo-validation-01.parquet").write_bytes(damage)
    faults = find_lineage_faults(Atlas.open(str(audited)))
    assert len(faults) == 2
    assert any("demo-validation-01.parquet cannot be read" in fault for fault in faults)
    assert any("commits/demo-validation-00.json" in fault for fault in faults)


def test_what_was_not_made_of_every_tar_is_no_fault(audited: Path) -> None:
    (audited / "labels" / "otsu" / "commits" / "demo-validation-00.json").unlink()
    assert find_lineage_faults(Atlas.open(str(audited))) == []
    assert build_lineage_table(Atlas.open(str(audited))).num_rows == 2 * TARS - 1


def test_a_folder_that_is_no_product_is_refused(audited: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no commits"):
        build_lineage_table(Atlas.open(str(audited)), [str(tmp_path / "nothing")])
