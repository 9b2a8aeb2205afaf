"""A shard that is another file than was planned, or than was read, is noticed."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support import jpeg, samples, soak_after, write_tar

from pipeline.run import INLINE, ExecutionOptions, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.store.verify import verify
from schemas.errors import RunFailedError
from schemas.run import RunSpec
from schemas.shard_record import SourceRecord

CHANGES = {
    "longer": lambda members: [*members[:-1], ("s0015.json", bytes(20_000))],
    "of other keys": lambda members: [(name.replace("s00", "t00"), data) for name, data in members],
    "of other pictures": lambda members: [(members[0][0], jpeg(99, (200, 200))), *members[1:]],
    "of other labels": lambda members: [(name, b"9" if name.endswith("cls") else data) for name, data in members],
    "in another order": lambda members: [*members[3:], *members[:3]],
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_shard_that_was_replaced_after_the_plan_is_quarantined_by_its_name(
    spec: RunSpec, tmp_path: Path, how: str
) -> None:
    """Each has as many samples as were planned."""
    plan(spec, str(tmp_path / "atlas"))
    write_tar(tmp_path / "shards" / "part-2.tar", CHANGES[how](samples(4, 12)))
    with pytest.raises(RunFailedError, match=r"part-2\.tar: is not the file that was planned: it.* (was|had) "):
        run(str(tmp_path / "atlas"), INLINE)
    atlas = Atlas.open(str(tmp_path / "atlas"))
    assert (atlas.shard_names, [*atlas.quarantined()]) == (("part-0", "part-1"), ["part-2"])
    write_tar(tmp_path / "shards" / "part-2.tar", samples(4, 12))  # restored
    assert len(run(str(tmp_path / "atlas"), INLINE).shard_names) == 3


@pytest.mark.parametrize("how", soak_after(2, CHANGES))
def test_verify_finds_a_finished_shard_that_was_replaced(finished: Path, tmp_path: Path, vitatlas, how: str) -> None:
    write_tar(tmp_path / "shards" / "part-2.tar", CHANGES[how](samples(4, 12)))
    code, out, error = vitatlas("verify", finished, "--recompute", "0")
    assert (code, out.count("fault "), error.count("\n")) == (1, 1, 1)
    assert re.search(r"part-2: .*/part-2\.tar is not the file that the maps were computed from: it.* (was|had) ", out)
    assert "commits" not in error  # which are as they should be


def test_verify_notes_shards_that_are_gone_and_fails_if_it_should_have_read_them(
    finished: Path, tmp_path: Path, vitatlas
) -> None:
    shutil.rmtree(tmp_path / "shards")
    code, out, _ = vitatlas("verify", finished, "--recompute", "0")
    assert (code, "note     the files of 3 shards cannot be reached and were not compared" in out) == (0, True)
    code, out, _ = vitatlas("verify", finished)
    assert code == 1
    assert re.search(r"fault    not one of \d+ samples could be computed again", out)


def test_a_shard_that_was_mended_for_a_retry_is_its_source_from_then_on(spec: RunSpec, tmp_path: Path) -> None:
    out, shard = str(tmp_path / "atlas"), tmp_path / "shards" / "part-1.tar"
    members = samples(7, 5)
    write_tar(shard, [(name, b"junk") if name == "s0008.jpg" else (name, data) for name, data in members])
    plan(spec, out)
    run(out, INLINE)
    write_tar(shard, members)
    assert "part-1" in verify(Atlas.open(out)).faults[0]
    assert run(out, INLINE, retry_failed=True).commits["part-1"].ok == 7
    assert verify(Atlas.open(out)).faults == []


@pytest.mark.parametrize("what", ["s0006.jpg", "s0006.cls"])
def test_a_retry_refuses_a_shard_whose_other_samples_were_changed(spec: RunSpec, tmp_path: Path, what: str) -> None:
    out, shard = str(tmp_path / "atlas"), tmp_path / "shards" / "part-1.tar"
    members = [(name, b"junk") if name == "s0008.jpg" else (name, data) for name, data in samples(7, 5)]
    write_tar(shard, members)
    plan(spec, out)
    run(out, INLINE)
    other = jpeg(99) if what.endswith("jpg") else b"3"
    write_tar(shard, [(name, other) if name == what else (name, data) for name, data in members])
    with pytest.raises(RunFailedError, match="part-1: image, label or text of s0006, which has maps, were changed"):
        run(out, INLINE, retry_failed=True)


def test_a_retry_does_not_commit_a_damaged_object_again(spec: RunSpec, tmp_path: Path) -> None:
    out, shard = str(tmp_path / "atlas"), tmp_path / "shards" / "part-1.tar"
    members = [(name, b"junk") if name == "s0008.jpg" else (name, data) for name, data in samples(7, 5)]
    write_tar(shard, members)
    plan(spec, out)
    run(out, INLINE)
    maps = tmp_path / "atlas" / "maps.zarr"
    shutil.copyfile(maps / "legrad" / "c" / "1" / "0" / "0" / "0", maps / "random" / "c" / "1" / "0" / "0" / "0")
    write_tar(shard, samples(7, 5))
    with pytest.raises(RunFailedError, match=r"random/c/1/0/0/0: is not as it was committed; .*to repair"):
        run(out, INLINE, retry_failed=True)


def test_versions_that_differ_between_shards_are_listed(finished: Path, vitatlas) -> None:
    record = finished / "commits" / "part-1.json"
    content = json.loads(record.read_text())
    torch = content["versions"]["torch"]
    content["versions"]["torch"] = f"{torch}, 0.1"  # samples of it were processed again
    record.write_text(json.dumps(content))
    mixed = {"torch": {"0.1": 1, torch: 3}}
    assert json.loads(vitatlas("status", finished, "--json")[1])["versions"] == mixed
    assert re.search(r"torch *. 0\.1 *. 1", vitatlas("status", finished)[1])
    code, out, _ = vitatlas("verify", finished, "--recompute", "0")
    assert (code, f"note     torch differs between shards: 0.1 in 1, {torch} in 3" in out) == (0, True)
    assert json.loads(vitatlas("verify", finished, "--recompute", "0", "--json")[1])["versions"] == mixed


def test_a_retry_with_another_version_keeps_both(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, shard = str(tmp_path / "atlas"), tmp_path / "shards" / "part-1.tar"
    write_tar(shard, [(name, b"junk") if name == "s0008.jpg" else (name, data) for name, data in samples(7, 5)])
    plan(spec, out)
    before = run(out, INLINE).commits["part-1"].versions
    write_tar(shard, samples(7, 5))
    monkeypatch.setattr("pipeline.run.worker.package_versions", lambda: before | {"timm": "99"})
    versions = run(out, INLINE, retry_failed=True).commits["part-1"].versions
    assert versions == before | {"timm": f"{before['timm']}, 99"}


def test_shards_that_only_a_list_counts_are_compared_too(spec: RunSpec, tmp_path: Path) -> None:
    """No headers are read for the plan; a copy of another shard has the same size."""
    folder = tmp_path / "shards"
    write_tar(folder / "part-2.tar", samples(5, 30))
    listed = {"filenames": [f"part-{index}.tar" for index in range(3)], "shard_lengths": [5, 7, 5]}
    (folder / "_info.json").write_text(json.dumps({"splits": {"x": listed}}))
    assert [shard.listing for shard in plan(spec, str(tmp_path / "atlas")).shards] == [None] * 3
    shutil.copyfile(folder / "part-0.tar", folder / "part-2.tar")
    with pytest.raises(RunFailedError, match=r"part-2\.tar: is not the file that was planned: its fingerprint was"):
        run(str(tmp_path / "atlas"), INLINE)


def test_keys_that_are_in_several_shards_are_noted(spec: RunSpec, tmp_path: Path) -> None:
    write_tar(tmp_path / "shards" / "part-2.tar", samples(4, 5))
    plan(spec, str(tmp_path / "atlas"))
    run(str(tmp_path / "atlas"), INLINE)
    result = verify(Atlas.open(str(tmp_path / "atlas")))
    assert (result.faults, len(result.notes)) == ([], 1)
    assert re.fullmatch(r"4 keys are in several shards, such as s000[5-8] of part-1; ask for rows", result.notes[0])


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An empty store with ETags."""
    files = fsspec.filesystem("memory")
    info = type(files).info

    def with_etag(self: Any, path: str, **options: Any) -> dict[str, Any]:
        details = info(self, path, **options)
        return details | ({"ETag": f'"{hash(self.cat(path))}"'} if details["type"] == "file" else {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(files), "info", with_etag)
        yield files
    files.rm("/tars", recursive=True)


@pytest.mark.parametrize("cached", [False, True])
def test_the_etag_of_a_store_tells_what_headers_do_not(
    bucket: Any, spec: RunSpec, tmp_path: Path, cached: bool
) -> None:
    for index in range(3):
        bucket.put(str(tmp_path / "shards" / f"part-{index}.tar"), f"/tars/part-{index}.tar")
    remote = spec.model_copy(update={"shards": ("memory://tars/part-{0..2}.tar",)})
    out, cache = str(tmp_path / "atlas"), str(tmp_path / "cache") if cached else None
    options = ExecutionOptions("inline", cache=cache)
    planned = plan(remote, out).shards[0].source
    assert None not in (planned.fingerprint, planned.listing)
    good = bucket.cat("/tars/part-1.tar")
    bad = good.replace(b"\n", b"\r", 1) if b"\n" in good else good[:600] + b"x" + good[601:]
    bucket.pipe("/tars/part-1.tar", bad)
    with pytest.raises(RunFailedError, match=r"part-1\.tar: is not the file that was planned: its fingerprint was"):
        run(out, options)
    bucket.pipe("/tars/part-1.tar", good)
    assert run(out, options).commits["part-0"].source == planned
    assert verify(Atlas.open(out)).faults == []
    bucket.pipe("/tars/part-1.tar", bad)
    (fault,) = verify(Atlas.open(out)).faults
    assert "part-1.tar is not the file that the maps were computed from: its fingerprint was" in fault


def test_what_is_not_known_of_a_file_is_not_compared() -> None:
    known = SourceRecord(size=10, fingerprint="a", listing="b")
    assert SourceRecord(size=-1).changes(known) == known.changes(SourceRecord(size=-1)) == []
    assert known.changes(SourceRecord(size=11, fingerprint="c", listing="d")) == [
        "it had 10 bytes and has 11",
        "its fingerprint was a and is c",
        "it lists other members",
    ]
