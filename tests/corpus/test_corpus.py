"""Whatever is in a tar: its sample gets its reason, its neighbours get their bytes, and nothing is run or written."""

import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpus.pictures import PICTURES
from corpus.tars import BROKEN, MEMBERS, SOUND, TARS
from PIL import Image, ImageOps
from support import FAST, jpeg, write_tar

from jobs.plan import plan_with_progress
from pipeline.read import PreprocessConfig, decode_image
from pipeline.read.shard_reader import read_samples, scan_shard
from pipeline.run import run
from pipeline.run.execution import ExecutionOptions
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.errors import CorruptShardError, RunFailedError
from schemas.run import ModelSpec, RunSpec
from schemas.samples import SampleStatus
from schemas.shard_record import ShardRecord

HERE = ExecutionOptions(executor="inline")
_RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "pickle.find_class")
_WRITES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_heard: list[tuple[str, tuple[object, ...]]] | None = None


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _heard is None:
        return
    if event == "open" and (
        isinstance(arguments[0], int) or not int(arguments[2]) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ):
        return
    if event in _RUNS or event in _WRITES:
        _heard.append((event, arguments))


sys.addaudithook(_hear)


@pytest.fixture
def heard() -> Iterator[list[tuple[str, tuple[object, ...]]]]:
    """What was run and written from here on."""
    global _heard
    _heard = []
    yield _heard
    _heard = None


def only_within(atlas: Path, heard: list[tuple[str, tuple[object, ...]]]) -> None:
    """Assert that nothing was run, and nothing written but below a folder."""
    assert heard
    for event, arguments in heard:
        assert event in _WRITES, (event, arguments)
        place = str(arguments[0])
        assert place.startswith(str(atlas)) or place == "/dev/null" or "__pycache__" in place, (event, arguments)


def test_it_is_a_corpus() -> None:
    assert len(PICTURES) > 200
    assert len(TARS) > 80


def test_a_strange_picture_is_a_row_and_its_neighbours_do_not_notice(
    tmp_path: Path, checkpoint: ModelSpec, heard: list[tuple[str, tuple[object, ...]]]
) -> None:
    strange, plain = [], []
    for number, (name, kind) in enumerate(PICTURES.items()):
        neighbour = [(f"good {number:03d}.jpg", jpeg(number)), (f"good {number:03d}.cls", b"1")]
        strange += [*neighbour, (f"{name}.jpg", kind.make()), (f"{name}.cls", b"2")]
        plain += [*neighbour, (f"{name}.jpg", jpeg(number + 1)), (f"{name}.cls", b"2")]
    atlases = []
    for name, members in (("strange", strange), ("plain", plain)):
        tar = write_tar(tmp_path / f"{name}.tar", members)
        out = str(tmp_path / f"{name}.atlas")
        # One target: a second one is traced only of images whose prediction is another, in batches of those.
        spec = RunSpec(shards=(str(tar),), model=checkpoint, methods=FAST, targets=("label",), batch_size=7)
        plan(spec, out)
        heard.clear()
        atlases.append(run(out, HERE))
        only_within(tmp_path / f"{name}.atlas", heard)
    tables = [atlas.samples().to_pylist() for atlas in atlases]
    rows = {row["key"]: row for row in tables[0]}
    for name, kind in PICTURES.items():
        assert rows[name]["status"] == kind.status, (name, rows[name])
        assert bool(rows[name]["error"]) == (kind.status != SampleStatus.OK), (name, rows[name])
    good = [row["row"] for row in tables[0] if row["key"].startswith("good")]
    assert len(good) == len(PICTURES)
    assert [tables[0][row] for row in range(0, len(tables[0]), 2)] == [
        row | {"shard": "strange"} for row in tables[1][::2]
    ]
    arrays = [name for name, array in atlases[0].group.arrays() if array.metadata.dimension_names[0] == "row"]
    assert set(FAST) < set(arrays)
    for array in arrays:
        first, second = (np.asarray(atlas.group[array])[good] for atlas in atlases)
        assert first.tobytes() == second.tobytes(), array


COSTLY = re.compile("gigabytes|bomb|many|large|filled|junk")  # for Pillow, which reads all of it


def test_pictures_without_their_metadata_have_the_pixels_that_they_have_with_them() -> None:
    """As Pillow sees them with everything that is in the file, where it can."""
    compared = 0
    for name, kind in PICTURES.items():
        if kind.status != SampleStatus.OK or COSTLY.search(name):
            continue
        data = kind.make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
                pixels = np.asarray(image.convert("RGB"))
            except (OSError, SyntaxError, ValueError):
                continue
        if not image.mode.startswith("I"):  # of which Pillow clips sixteen bits
            frame = PreprocessConfig(image.width, image.height, "nearest", "squash", 1.0, "center")
            assert np.array_equal(decode_image(data, frame).pixels, pixels.transpose(2, 0, 1)), name
            compared += 1
    assert compared > 80


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All tars, and a good one between any two."""
    for number, (name, kind) in enumerate(TARS.items()):
        (tmp_path / f"{number:03d} {name}.tar").write_bytes(kind.make())
        if number % 10 == 0:
            write_tar(tmp_path / f"{number:03d} {name} good.tar", MEMBERS)
    return tmp_path


def test_a_strange_tar_is_done_or_named_and_the_others_are_done(
    folder: Path, checkpoint: ModelSpec, heard: list[tuple[str, tuple[object, ...]]]
) -> None:
    out = folder / "atlas"
    planned = plan(
        RunSpec(shards=(str(folder / "*.tar"),), model=checkpoint, methods=("attention",), batch_size=3), str(out)
    )
    heard.clear()
    with pytest.raises(RunFailedError) as failed:
        run(str(out), HERE)
    only_within(out, heard)
    atlas = Atlas.open(str(out))
    aside = atlas.quarantined()
    for shard in planned.shards:
        name = Path(shard.url).stem[4:]
        kind = TARS.get(name, SOUND["plain"])
        if kind.fault:
            assert re.search(kind.fault, shard.fault or ""), (name, shard)
            assert aside[shard.name] == f"{shard.url}: {shard.fault}"
            assert shard.name not in atlas.commits
        else:
            assert shard.fault is None, (name, shard)
            assert (atlas.commits[shard.name].rows, atlas.commits[shard.name].ok) == (4, 4), name
    assert str(failed.value).startswith(f"{len(BROKEN)} of {len(planned.shards)} shards")


def test_the_good_front_of_a_broken_tar_is_kept_if_that_is_asked_for(
    folder: Path, checkpoint: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {name: kind.partial for name, kind in BROKEN.items() if kind.partial}
    shards = tuple(str(path) for path in sorted(folder.glob("*.tar")) if path.stem[4:] in kept)
    out = str(folder / "atlas")
    spec = RunSpec(shards=shards, model=checkpoint, methods=("attention",), batch_size=3, partial_shards="keep")
    planned = plan_with_progress(spec, out)
    assert {Path(shard.url).stem[4:]: shard.samples for shard in planned.shards} == kept
    assert all(shard.partial and shard.fault for shard in planned.shards)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if ": about " not in line] == [  # the time left, on a slow machine
        f"warning  {shard.url}: {shard.fault}; its first {shard.samples} samples are kept" for shard in planned.shards
    ]
    assert {tar: commit.ok for tar, commit in run(out, HERE).commits.items()} == {
        shard.name: shard.samples for shard in planned.shards
    }


@pytest.mark.parametrize("name", TARS)
def test_what_is_kept_is_what_was_packed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(TARS[name].make())
    found = scan_shard(str(path))
    shard = ShardRecord(name="a", url=str(path), samples=found.samples, size=found.size, fault=found.fault)
    images = [data for key, data in MEMBERS if key.endswith("jpg")]
    if found.fault:
        assert re.search(TARS[name].fault or "nothing", found.fault), found
        assert found.samples == TARS[name].partial
        with pytest.raises(CorruptShardError, match=re.escape(found.fault)):
            list(read_samples(shard, 99))
    if found.samples:
        kept = replace(shard, partial=True)
        assert [sample.image().data for sample in read_samples(kept, 99)] == images[: found.samples]
