"""An audit is whole, says the same again, and vouches for every byte of itself."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import timm
import torch
from audit.conftest import SMALL
from safetensors.torch import save_file
from some_audit import PUBLICATION
from support import copy_atlas, samples, write_tar

from pipeline.audit.audit_atlas import AuditOptions, audit_atlas
from pipeline.audit.exports import EXPORTERS
from pipeline.audit.publication.manifest import verify_manifest
from pipeline.audit.publication.verify_audit import verify_audit
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import label
from pipeline.run import INLINE, run
from pipeline.run.execution import ComputeOptions
from pipeline.run.plan import plan
from pipeline.score import score
from pipeline.store import Atlas
from pipeline.store.verify import verify
from pipeline.truth import read_truth
from schemas import audit_tables as schemas
from schemas.policy import Policy, Threshold
from schemas.run import ModelSpec, RunSpec

NOTHING = AuditOptions(0, 0, 0, include_images=False)
SCHEMAS = {
    "methods": schemas.METHODS,
    "agreement": schemas.AGREEMENT,
    "shortcuts": schemas.SHORTCUTS,
    "clusters": schemas.CLUSTERS,
    "members": schemas.CLUSTER_MEMBERS,
    "lineage": schemas.LINEAGE,
    "images": schemas.IMAGES,
    "pairs": schemas.PAIRS,
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_its_tables_are_as_their_schema_says(published: Path, name: str) -> None:
    table = pq.read_table(published / name if (published / name).is_dir() else published / f"{name}.parquet")
    assert table.schema.names == SCHEMAS[name].names
    assert len(table)
    for field in SCHEMAS[name]:
        assert field.nullable or not table[field.name].null_count, field.name


def test_the_atlas_around_it_is_still_whole(published: Path) -> None:
    assert verify_manifest(str(published)) == []
    assert verify(Atlas.open(str(published.parents[1]))).faults == []


def test_the_same_audit_again_has_the_same_root(published: Path, world: SyntheticDataset, tmp_path: Path) -> None:
    atlas = shutil.copytree(published.parents[1], tmp_path / "atlas")
    root = json.loads((published / "manifest.json").read_text())["root"]
    again = audit_atlas(
        Atlas.open(str(atlas)), truth=read_truth(world.truth), audit_options=SMALL, publication=PUBLICATION
    )
    assert again.manifest.root == root
    assert verify_manifest(str(atlas / "audit" / "label"), root) == []


def test_labels_of_other_maps_are_told_of_and_stand_in_the_lineage(atlas: Atlas, tmp_path: Path) -> None:
    copy = copy_atlas(atlas.objects.url, tmp_path / "copy")
    policy = Policy(name="otsu", methods=("legrad",), threshold=Threshold(kind="otsu"))
    label(Atlas.open(str(copy)), policy, ["png"], str(copy / "labels" / "otsu"))
    path = next((copy / "labels" / "otsu" / "commits").iterdir())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parent": "sha256:0"}))
    said: list[str] = []
    audit_atlas(
        Atlas.open(str(copy)), str(tmp_path / "out"), methods=["legrad"], audit_options=NOTHING, log=said.append
    )
    (fault,) = (line for line in said if "made of other maps" in line)
    assert fault.startswith(f"labels/otsu: {path.stem} was")
    assert "sha256:0" in pq.read_table(tmp_path / "out" / "lineage.parquet")["parent_hash"].to_pylist()


def upright(folder: Path) -> ModelSpec:
    """A small random network whose input is 48 × 32 pixels, so that its grid is not square."""
    options = {"img_size": [48, 32], "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    told = {"input_size": [3, 48, 32], "interpolation": "bicubic", "crop_pct": 1.0, "num_classes": 10}
    torch.manual_seed(0)
    name = "vit_tiny_patch16_224"
    save_file(timm.create_model(name, num_classes=10, **options).state_dict(), folder / "model.safetensors")
    config = {"architecture": name, "num_classes": 10, "model_args": options, "pretrained_cfg": told}
    (folder / "config.json").write_text(json.dumps(config))
    return ModelSpec(name=f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize("methods", [("legrad", "center", "edges"), ("uniform",)], ids=["not square", "degenerate"])
def test_an_atlas_whose_grid_is_not_square_or_whose_maps_say_nothing_is_audited_whole(
    tmp_path: Path, methods: tuple[str, ...]
) -> None:
    shard = str(write_tar(tmp_path / "a.tar", samples(6)))
    url = str(tmp_path / "atlas")
    plan(RunSpec(shards=(shard,), model=upright(tmp_path), methods=methods, batch_size=4), url)
    assert run(url, INLINE).run.model.grid == (6, 4)
    known = [{"id": number, "file_name": f"s{number:04d}.jpg", "width": 40 + number, "height": 30 + number % 5}
             for number in range(6)]  # fmt: skip
    boxes = [{"id": 1 + number, "image_id": number, "bbox": [5, 5, 20, 15]} for number in range(6)]
    (tmp_path / "truth.json").write_text(json.dumps({"images": known, "annotations": boxes}))
    score(Atlas.open(url), read_truth(tmp_path / "truth.json"))
    exports = tuple(EXPORTERS)
    audit_atlas(
        Atlas.open(url),
        truth=read_truth(tmp_path / "truth.json"),
        audit_options=AuditOptions(2, 1, 4, exports=exports),
        options=ComputeOptions(device="cpu"),
    )
    out = tmp_path / "atlas" / "audit" / "label"
    assert list(verify_audit(str(out))) == []
    assert "patch grid 6 × 4" in (out / "README.md").read_text()
    rows = [row for row in pq.read_table(out / "methods.parquet").to_pylist() if row["class"] is None]
    assert {row["method"]: row["degenerate"] for row in rows} == {name: 6 * (name == "uniform") for name in methods}
    found = pq.read_table(out / "shortcuts.parquet")
    assert set(found["method"].to_pylist()) == set(methods) - {"uniform"}
    assert all(len(row) == 24 for row in pq.read_table(out / "clusters.parquet")["prototype"].to_pylist())
