"""A shard without members is a finished shard without rows, and everything that is made of an atlas lives with it."""

import gzip
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import DEMO_MODEL, samples, soak_after, write_tar

from pipeline.audit.exports import EXPORTERS
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label.formats import LABEL_FORMATS
from pipeline.read.shard_reader import scan_shard
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.store.verify import verify
from schemas.errors import UsageError
from schemas.run import RunSpec

EMPTY = bytes(10240)


def folders_only(path: Path) -> bytes:
    with tarfile.open(path, "w") as archive:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["end mark", "packed", "folders"])
def test_a_tar_without_members_is_done_with_a_warning(spec: RunSpec, tmp_path: Path, vitatlas, kind: str) -> None:
    path, out = tmp_path / "shards" / "part-1.tar", tmp_path / "atlas"
    contents = {"end mark": EMPTY, "packed": gzip.compress(EMPTY), "folders": folders_only(tmp_path / "x.tar")}
    path.write_bytes(contents[kind])
    given = ["--model", "test_vit", "--checkpoint", spec.model.checkpoint, "--methods", "legrad"]
    code, text, error = vitatlas("run", *spec.shards, "--out", out, *given, "--executor", "inline")
    assert (code, "complete 3 shards, 9 images with maps, 0 without" in text) == (0, True)
    assert f"warning  {path}: holds no samples; it will have no rows" in error
    assert f"{path}: holds no samples" in vitatlas("status", out)[1]
    assert vitatlas("verify", out, "--recompute", "9")[0] == 0
    assert vitatlas("run", out, "--executor", "inline", "--retry-failed")[0] == 0
    atlas = Atlas.open(str(out))
    assert atlas.samples()["shard"].to_pylist() == ["part-0"] * 5 + ["part-2"] * 4
    assert (atlas.commits["part-1"].rows, atlas.shard("part-1").maps("legrad").shape[0]) == (0, 0)


def test_an_atlas_of_empty_shards_is_finished_and_verified_with_a_warning_for_each(
    tmp_path: Path, vitatlas, world: SyntheticDataset
) -> None:
    shards, out = [tmp_path / "a.tar", tmp_path / "b.tar"], tmp_path / "atlas"
    for shard in shards:
        shard.write_bytes(EMPTY)
    model = ["--model", DEMO_MODEL.name, "--pretrained", "--methods", "legrad,center"]
    code, text, error = vitatlas("run", *shards, "--out", out, *model, "--executor", "inline")
    assert (code, "complete 2 shards, 0 images with maps, 0 without" in text) == (0, True)
    assert [line for line in error.splitlines() if line.startswith("warning")] == [
        f"warning  {shard}: holds no samples; it will have no rows" for shard in shards
    ]
    atlas = Atlas.open(str(out))
    assert [(commit.rows, commit.ok) for commit in atlas.commits.values()] == [(0, 0), (0, 0)]
    assert atlas.samples().num_rows == 0
    assert vitatlas("verify", out, "--recompute", "9")[0] == 0
    assert vitatlas("run", out, "--executor", "inline", "--retry-failed")[0] == 0
    policy = tmp_path / "policy.yaml"
    policy.write_text("{name: p, methods: [legrad], threshold: {kind: otsu}}")
    assert vitatlas("label", out, "--policy", policy, "--format", ",".join(LABEL_FORMATS))[0] == 0
    for command in (["score", out, "--truth", world.truth], ["audit", out], ["audit", out, "--maps-only"]):
        code, _, error = vitatlas(*command)
        assert (code, error.count("\n")) == (2, 1), error
    assert f"{out}: no image has maps to audit; vitatlas status {out} says why" in error


def test_an_atlas_of_faulty_shards_is_refused(spec: RunSpec, tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / "shards" / f"part-{index}.tar").write_bytes(bytes(3 << 20))
    with pytest.raises(UsageError, match=r"part-0\.tar: it holds no samples; no shard can be used"):
        plan(spec, str(tmp_path / "atlas"))
    assert not (tmp_path / "atlas").exists()


def test_zeros_that_were_never_written_are_no_empty_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(3 << 20))
    assert scan_shard(str(tmp_path / "a.tar")).fault == "it holds no samples"
    (tmp_path / "a.tar").write_bytes(b"")
    assert scan_shard(str(tmp_path / "a.tar")).fault == "it is empty"


def test_a_listed_count_of_zero_is_looked_at(spec: RunSpec, tmp_path: Path) -> None:
    (tmp_path / "shards" / "part-1.tar").write_bytes(EMPTY)
    listed = {"filenames": [f"part-{index}.tar" for index in range(3)], "shard_lengths": [5, 0, 0]}
    (tmp_path / "shards" / "_info.json").write_text(json.dumps({"splits": {"x": listed}}))
    assert [shard.samples for shard in plan(spec, str(tmp_path / "atlas")).shards] == [5, 0, 4]


def test_a_shard_that_was_empty_and_is_not_any_more_is_refused(spec: RunSpec, tmp_path: Path) -> None:
    path = tmp_path / "shards" / "part-1.tar"
    path.write_bytes(EMPTY)
    plan(spec, str(tmp_path / "atlas"))
    run(str(tmp_path / "atlas"), INLINE)
    write_tar(path, samples(2, 40))
    (fault,) = verify(Atlas.open(str(tmp_path / "atlas"))).faults
    assert "part-1.tar is not the file that the maps were computed from" in fault


@pytest.fixture
def with_empty(world: SyntheticDataset, tmp_path: Path) -> Path:
    """An atlas whose first shard and last are empty."""
    shards, out = tmp_path / "shards", tmp_path / "atlas"
    shutil.copytree(Path(world.shards).parent, shards)
    for name in ("a-first.tar", "z-last.tar"):
        (shards / name).write_bytes(EMPTY)
    methods = ("legrad", "center", "uniform")
    plan(RunSpec(shards=(f"{shards}/*.tar",), model=DEMO_MODEL, methods=methods), str(out))
    assert [shard.samples for shard in run(str(out), INLINE).run.shards] == [0, 24, 24, 0]
    return out


def test_masks_scores_and_verification_live_with_shards_without_rows(
    with_empty: Path, world: SyntheticDataset, tmp_path: Path, vitatlas
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("{name: p, methods: [legrad], threshold: {kind: calibrated}}")
    for name, *options in (
        ("verify",),
        ("label", "--policy", policy, "--format", ",".join(LABEL_FORMATS), "--tune", world.truth),
        ("score", "--truth", world.truth),
    ):
        code, _, error = vitatlas(name, with_empty, *options)
        assert code == 0, (name, error)
    assert len(pq.read_table(with_empty / "labels" / "p" / "labels")) == 48


@pytest.mark.parametrize(
    "options",
    soak_after(
        1, [["--images", "2", "--sanity", "0", "--recompute", "2"], ["--maps-only", "--export", ",".join(EXPORTERS)]]
    ),
    ids=["metrics", "exports"],
)
@pytest.mark.usefixtures("two_processes")
def test_an_audit_lives_with_shards_without_rows(
    with_empty: Path, world: SyntheticDataset, tmp_path: Path, vitatlas, options: list[str]
) -> None:
    code, _, error = vitatlas("audit", with_empty, "--truth", world.truth, "--out", tmp_path / "audit", *options)
    assert code == 0, error
    assert vitatlas("audit", "--check", tmp_path / "audit")[0] == 0
