"""Every sample that was planned is counted once, whatever became of it."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from support import samples, write_tar

from pipeline.audit.completeness import build_completeness_table, generalize_error
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.audit_tables import COMPLETENESS, DEGENERATE, PENDING, QUARANTINED
from schemas.errors import RunFailedError
from schemas.run import ModelSpec, RunSpec
from schemas.samples import SampleStatus

METHODS = ("legrad", "uniform")


def trouble(place: Path, checkpoint: ModelSpec) -> Path:
    """An atlas of five shards: good, with bad samples, vanished before the run, cut off before the plan, not done."""
    folder = place / "shards"
    write_tar(folder / "a.tar", samples(3))
    members = dict(samples(6))
    members["s0000.jpg"] = b"no picture"
    members["s0001.jpg"] = b"none either, and longer"
    members["s0002.cls"] = b"77"
    members["s0003.cls"] = b"88"
    del members["s0004.jpg"]
    write_tar(folder / "b.tar", members.items())
    write_tar(folder / "c.tar", samples(4))
    whole = write_tar(folder / "d.tar", samples(5)).read_bytes()
    (folder / "d.tar").write_bytes(whole[: len(whole) // 2])
    write_tar(folder / "e.tar", samples(2))
    out = place / "atlas"
    plan(RunSpec(shards=(str(folder / "*.tar"),), model=checkpoint, methods=METHODS, batch_size=4), str(out))
    (folder / "c.tar").unlink()
    with pytest.raises(RunFailedError):
        run(str(out), INLINE)
    (out / "commits" / "e.json").unlink()
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, checkpoint: ModelSpec) -> Path:
    """Such an atlas, not to be changed."""
    return trouble(tmp_path_factory.mktemp("trouble"), checkpoint)


@pytest.fixture
def troubled(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed; its shards are those of the other."""
    return Path(shutil.copytree(made, tmp_path / "atlas"))


def counted(table: pa.Table, *names: str) -> dict[tuple[str, ...], int]:
    """Sums of the counts of samples by columns."""
    found: dict[tuple[str, ...], int] = {}
    for row in table.to_pylist():
        if row["kind"] == "samples":
            key = tuple(row[name] for name in names)
            found[key] = found.get(key, 0) + row["count"]
    return found


def test_all_that_was_planned_is_counted_exactly_with_bad_tars_bad_images_and_unfinished_work(made: Path) -> None:
    table = build_completeness_table(Atlas.open(str(made)))
    planned = Atlas.open(str(made)).run
    assert table.schema.equals(COMPLETENESS)
    assert counted(table, "shard") == {(shard.name,): shard.samples for shard in planned.shards}
    assert sum(counted(table, "shard").values()) == planned.samples
    assert counted(table, "shard", "status") == {
        ("a", SampleStatus.OK): 3,
        ("b", SampleStatus.OK): 1,
        ("b", SampleStatus.UNDECODABLE): 2,
        ("b", SampleStatus.LABEL_OUT_OF_RANGE): 2,
        ("b", SampleStatus.MISSING_IMAGE): 1,
        ("c", QUARANTINED): 4,
        ("d", QUARANTINED): planned.shards[3].samples,
        ("e", PENDING): 2,
    }
    assert planned.shards[3].samples > 0


def test_reasons_are_kinds_of_errors_and_tell_no_path(made: Path) -> None:
    rows = build_completeness_table(Atlas.open(str(made))).to_pylist()
    reasons = {row["status"]: row["reason"] for row in rows if row["kind"] == "samples" and row["shard"] == "b"}
    assert reasons[SampleStatus.OK] is None
    assert reasons[SampleStatus.LABEL_OUT_OF_RANGE] == "label … is outside of … … …"
    assert sum(row["status"] == SampleStatus.LABEL_OUT_OF_RANGE for row in rows) == 1
    assert all((row["reason"] is None) == (row["status"] == SampleStatus.OK) for row in rows)
    assert not any(str(made.parent) in (row["reason"] or "") for row in rows)
    assert next(row["reason"] for row in rows if row["shard"] == "c") == "there is no such file"


def test_maps_of_each_method_add_up_and_degenerate_ones_are_told_apart(made: Path) -> None:
    rows = [row for row in build_completeness_table(Atlas.open(str(made))).to_pylist() if row["kind"] == "maps"]
    found = {(row["shard"], row["method"], row["status"]): row["count"] for row in rows if row["count"]}
    assert found == {
        ("a", "legrad", "ok"): 6,
        ("a", "uniform", DEGENERATE): 6,
        ("b", "legrad", "ok"): 2,
        ("b", "uniform", DEGENERATE): 2,
    }
    assert {(row["shard"], row["expected"]) for row in rows} == {("a", 6), ("b", 2)}


def test_a_tar_that_was_mended_is_expected_to_hold_what_it_holds(tmp_path: Path, checkpoint: ModelSpec) -> None:
    troubled = trouble(tmp_path, checkpoint)
    write_tar(tmp_path / "shards" / "c.tar", samples(4))
    write_tar(tmp_path / "shards" / "d.tar", samples(5))
    run(str(troubled), INLINE)
    table = build_completeness_table(Atlas.open(str(troubled)))
    assert counted(table, "shard", "status")[("d", SampleStatus.OK)] == 5
    assert {row["expected"] for row in table.to_pylist() if row["shard"] == "d" and row["kind"] == "samples"} == {5}
    assert counted(table, "kind") == {("samples",): 3 + 6 + 4 + 5 + 2}


def test_an_atlas_that_was_never_run_has_all_pending(troubled: Path) -> None:
    shutil.rmtree(troubled / "commits")
    shutil.rmtree(troubled / "quarantined")
    found = counted(build_completeness_table(Atlas.open(str(troubled))), "shard", "status")
    assert {key for key in found if key[1] != PENDING} == {("d", QUARANTINED)}


def test_a_commit_that_contradicts_its_samples_is_refused(troubled: Path) -> None:
    path = troubled / "commits" / "b.json"
    record = json.loads(path.read_text())
    record["statuses"] |= {SampleStatus.UNDECODABLE: 1, SampleStatus.MISSING_IMAGE: 2}  # as many in all
    path.write_text(json.dumps(record))
    with pytest.raises(RunFailedError, match=r"its commit counts . samples that are (undecodable|missing_image)"):
        build_completeness_table(Atlas.open(str(troubled)))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("label 12 is outside of 0 … 9", "label … is outside of … … …"),
        ("the .cls member is 'x|y', not a number", "the .cls member is …, not a number"),
        ("no member ends in jpg, png; there are: <img src=x>.txt", "no member ends in jpg, png"),
        ("OSError: broken\nat 0xdeadbeef of /home/anna/x.tar", "OSError: broken at … of …"),
        ("", ""),
    ],
)
def test_a_kind_of_error_has_nothing_of_one_sample(error: str, kind: str) -> None:
    assert generalize_error(error) == kind
