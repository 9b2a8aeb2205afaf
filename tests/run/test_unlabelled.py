"""Samples without labels: where there is not one label, predictions are explained; one label, wherever, is not lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import jpeg, write_tar

from pipeline.read import shards as reading
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.errors import RunFailedError, SpecMismatchError
from schemas.run import ModelSpec, RunSpec

NOTE = "note     no sample has a label (a .cls member): predictions are explained\n"


def write_shards(folder: Path, *labels: tuple[bytes | None, ...], info: bool = False) -> str:
    """Shards of images with these labels, None for none; with `info` their headers need not be read."""
    for number, of_shard in enumerate(labels):
        members = []
        for place, label in enumerate(of_shard):
            members.append((f"{number}{place}.jpg", jpeg(place, (8, 8))))
            members += [(f"{number}{place}.cls", label)] if label is not None else []
        write_tar(folder / f"part-{number:02}.tar", members)
    if info:
        files = sorted(path.name for path in folder.glob("*.tar"))
        split = {"filenames": files, "shard_lengths": [len(of_shard) for of_shard in labels]}
        (folder / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    return str(folder / "part-*.tar")


def spec_of(shards: str, checkpoint: ModelSpec, **options: Any) -> RunSpec:
    return RunSpec(shards=(shards,), model=checkpoint, methods=("random",), **options)


@pytest.mark.parametrize("info", [False, True], ids=["headers", "info"])
def test_where_no_sample_has_a_label_predictions_are_explained(
    vitatlas, checkpoint: ModelSpec, tmp_path: Path, info: bool
) -> None:
    shards = write_shards(tmp_path / "shards", (None, None), (b"", None), info=info)
    command = ["run", shards, "--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint, "--methods", "random"]
    command += ["--executor", "inline", "--out", tmp_path / "atlas"]
    code, out, err = vitatlas(*command)
    assert (code, err.count(NOTE), "accuracy" in out) == (0, 1, False)
    assert "targets  predicted, geometry" in out
    assert "complete 2 shards, 4 images with maps, 0 without" in out
    atlas = Atlas.open(str(tmp_path / "atlas"))
    assert atlas.run.spec.targets == ("predicted",)
    assert [shard.unlabelled for shard in atlas.run.shards] == [2, 2]
    assert vitatlas(*command)[0] == 0  # the same command again, as after an interruption
    assert vitatlas(*command, "--targets", "predicted")[0] == 0
    code, _, err = vitatlas(*command, "--targets", "label,predicted")
    assert (code, "targets is ['predicted'], not ['label', 'predicted']" in err) == (2, True)


@pytest.mark.parametrize("info", [False, True], ids=["headers", "info"])
def test_one_label_behind_unlabelled_shards_is_explained_and_the_others_are_named(
    vitatlas, checkpoint: ModelSpec, tmp_path: Path, info: bool
) -> None:
    shards = write_shards(tmp_path / "shards", (None, None), (None,), (None, b"3"), info=info)
    command = ["run", shards, "--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint, "--methods", "random"]
    code, out, err = vitatlas(*command, "--executor", "inline", "--out", tmp_path / "atlas")
    assert (code, NOTE in err) == (0, False)
    assert ("warning  4 of 5 samples have no label (a .cls member) and get no maps" in err) != info  # not read before
    assert "complete 3 shards, 1 images with maps, 4 without" in out
    assert "4 samples have no label; --targets predicted, for another atlas, explains all samples" in err
    atlas = Atlas.open(str(tmp_path / "atlas"))
    assert atlas.run.spec.targets == ("label", "predicted")
    assert atlas.statuses() == {"missing_label": 4, "ok": 1}


def test_targets_that_are_named_are_kept(checkpoint: ModelSpec, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", (None,))
    named = spec_of(shards, checkpoint, targets=("label", "predicted"))
    plan(named, str(tmp_path / "named"))
    with pytest.raises(RunFailedError, match=r"no \.cls member; .* plan with --targets predicted"):
        run(str(tmp_path / "named"), INLINE)
    plan(spec_of(shards, checkpoint, targets=("class:3",)), str(tmp_path / "fixed"))
    with pytest.raises(SpecMismatchError, match="targets is"):
        plan(spec_of(shards, checkpoint), str(tmp_path / "fixed"))
    with pytest.raises(SpecMismatchError, match="targets is"):
        plan(named, str(tmp_path / "fixed"))
    in_json = spec_of(shards, checkpoint, label_key="label")
    assert plan(in_json, str(tmp_path / "json")).spec.targets == ("label", "predicted")


def test_a_label_in_a_damaged_shard_counts(checkpoint: ModelSpec, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", (None, None), (b"1",) * 4)
    damaged = tmp_path / "shards" / "part-01.tar"
    damaged.write_bytes(damaged.read_bytes()[:-12_000])
    record = plan(spec_of(shards, checkpoint), str(tmp_path / "atlas"))
    assert record.shards[1].fault
    assert record.spec.targets == ("label", "predicted")


def test_headers_are_read_up_to_the_first_label(
    checkpoint: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_shards(tmp_path / "shards", (None, b"1"), (b"1", b"2"), (b"1",), info=True)
    opened: list[str] = []
    open_byte_stream = reading.open_byte_stream
    monkeypatch.setattr(reading, "open_byte_stream", lambda url: opened.append(url) or open_byte_stream(url))
    plan(spec_of(shards, checkpoint), str(tmp_path / "atlas"))
    assert [Path(url).name for url in opened] == ["part-00.tar"]
    opened.clear()
    plan(spec_of(shards, checkpoint, targets=("label",)), str(tmp_path / "named"))
    assert opened == []
