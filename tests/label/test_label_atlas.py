"""Labels are made once, gone on with where they were stopped, and never written over others."""

import json
from pathlib import Path

import pytest
from support import crash_after, samples, write_tar

from pipeline.label import LABEL_FORMATS, label, label_atlas, read_labels
from pipeline.label.label_atlas import _label_shard
from pipeline.run import INLINE, derive, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.errors import UsageError
from schemas.policy import Policy, Postprocess, Threshold
from schemas.run import RunSpec
from schemas.shard_record import SourceRecord

POLICY = Policy(
    name="legrad-otsu", methods=("legrad",), threshold=Threshold(kind="otsu"), postprocess=Postprocess(min_area=0.01)
)


def test_what_is_done_is_not_done_again_and_what_changed_is(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, done = tmp_path / "out", []

    def counting(*arguments):
        done.append(arguments[-1].shard)
        return _label_shard(*arguments)

    monkeypatch.setattr(label_atlas, "_label_shard", counting)
    monkeypatch.setattr(derive, "parallel_map", lambda function, items, *rest, **options: map(function, items))
    shards = [shard.name for shard in atlas.run.shards]
    label(atlas, POLICY, ["png"], str(out))
    assert done == shards
    label(atlas, POLICY, ["png"], str(out))
    assert done == shards
    label(atlas, POLICY, ["png", "coco"], str(out))  # another format
    assert done == 2 * shards
    commit = out / "commits" / f"{shards[1]}.json"
    content = json.loads(commit.read_text())
    commit.write_text(json.dumps(content | {"parent": "sha256:0"}))  # the maps of that shard were made again
    label(atlas, POLICY, ["png", "coco"], str(out))
    assert done == 2 * shards + shards[1:2]
    commit.write_text("{")  # torn
    label(atlas, POLICY, ["png", "coco"], str(out))
    assert done == 2 * shards + 2 * shards[1:2]
    assert json.loads(commit.read_text()) == content


def test_stopped_after_any_operation_the_same_command_ends_with_the_same_bytes(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derive, "parallel_map", lambda function, items, *rest, **options: map(function, items))
    whole = tmp_path / "whole"
    label(atlas, POLICY, ["png", "coco"], str(whole))
    expected = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    for count in range(1, 40):
        out = tmp_path / f"out-{count}"
        with crash_after(count, monkeypatch) as crash:
            label(atlas, POLICY, ["png", "coco"], str(out))
        (out / "lease.json").unlink(missing_ok=True)
        label(atlas, POLICY, ["png", "coco"], str(out))
        found = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert found == expected, count
        if not crash.happened:
            break
    assert count > 10
    assert not crash.happened


def test_a_key_in_two_tars_is_refused_by_formats_that_name_files_by_key(checkpoint, tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", samples(2))
    out = str(tmp_path / "atlas")
    plan(RunSpec(shards=(str(tmp_path / "[ab].tar"),), model=checkpoint, methods=("legrad",)), out)
    run(out, INLINE)
    named = [name for name, exporter in LABEL_FORMATS.items() if exporter.names_files_by_key]
    with pytest.raises(UsageError, match=r"s0000: is a key in a and in b, and a format that names files by key"):
        label(Atlas.open(out), POLICY, named[:1], str(tmp_path / "labels"))
    assert not (tmp_path / "labels").exists()
    label(Atlas.open(out), POLICY, ["png", "coco"], str(tmp_path / "labels"))


def test_an_atlas_or_scores_are_not_written_over(atlas: Atlas, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(atlas.objects.url).rglob("*")}
    with pytest.raises(UsageError, match="holds an atlas; name another --out"):
        label(atlas, POLICY, ["png"], atlas.objects.url)
    assert before == {path: path.stat().st_mtime_ns for path in Path(atlas.objects.url).rglob("*")}
    (tmp_path / "commits").mkdir()
    (tmp_path / "commits" / "a.json").write_text("{}")
    with pytest.raises(UsageError, match=r"holds something else, whose commits/a\.json would be overwritten"):
        label(atlas, POLICY, ["png"], str(tmp_path))


def test_other_names_of_classes_are_other_labels(atlas: Atlas, tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(10)]
    label(atlas, POLICY, ["coco"], str(tmp_path), classes=names)
    assert b'"class 3"' in (tmp_path / "coco" / "instances.json").read_bytes()
    with pytest.raises(UsageError, match=r"something else \(classes is"):
        label(atlas, POLICY, ["coco"], str(tmp_path), classes=names[::-1])
    with pytest.raises(UsageError, match="has 10 classes, not the 2 that are named"):
        label(atlas, POLICY, ["coco"], str(tmp_path / "b"), classes=["a", "b"])


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_tar_that_was_done_again_leaves_nothing_of_what_it_was(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of formats that are not asked for this time, and of pictures that have no maps any more."""
    out = tmp_path / "labels"
    label(Atlas.open(str(finished)), POLICY, ["png", "voc"], str(out))
    shard = tmp_path / "shards" / "part-1.tar"
    first = samples(7, 5)
    write_tar(shard, [*first[:3], ("s0006.jpg", b"broken"), *first[4:]])
    monkeypatch.setattr(SourceRecord, "changes", lambda self, now: [])
    (finished / "commits" / "part-1.json").unlink()
    run(str(finished), INLINE)
    label(Atlas.open(str(finished)), POLICY, ["voc"], str(out))
    label(Atlas.open(str(finished)), POLICY, ["png", "voc"], str(tmp_path / "fresh"))
    mine, fresh = everything(out), everything(tmp_path / "fresh")
    assert "voc/SegmentationClass/s0006.png" not in mine
    for unlike in ("summary.json", *(name for name in fresh if name.startswith("commits/"))):
        del mine[unlike], fresh[unlike]
    assert mine == fresh


def test_a_tar_that_is_finished_no_more_is_forgotten(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    label(Atlas.open(str(finished)), POLICY, ["png", "coco"], str(out))
    (finished / "commits" / "part-1.json").unlink()
    made = label(Atlas.open(str(finished)), POLICY, ["png", "coco"], str(out))
    assert sum(made.counts.values()) == len(read_labels(str(out))) == 9
    assert not list(out.rglob("*part-1*"))


def test_an_object_that_is_gone_is_made_again(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    label(Atlas.open(str(finished)), POLICY, ["png", "coco"], str(out))
    before = everything(out)
    (out / "png" / "part-0.tar").unlink()
    (out / "coco" / "shards" / "part-2.json").unlink()
    label(Atlas.open(str(finished)), POLICY, ["png", "coco"], str(out))
    assert everything(out) == before


def test_what_was_made_of_all_tars_does_not_outlive_one_of_them(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "labels"
    label(Atlas.open(str(finished)), POLICY, ["coco"], str(out))
    (out / "coco" / "shards" / "part-2.json").unlink()

    def tripping(*arguments: object, **options: object) -> None:
        raise RuntimeError("tripped")

    monkeypatch.setattr(derive, "parallel_map", tripping)
    with pytest.raises(RuntimeError, match="tripped"):
        label(Atlas.open(str(finished)), POLICY, ["coco"], str(out))
    assert not (out / "summary.json").exists()
    assert not (out / "coco" / "instances.json").exists()
