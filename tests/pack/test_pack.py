"""A pack is the same every time, whatever interrupts it, and nothing is lost on the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pack_sources as sources
import pytest
from pack_sources import digests, left_out_of, read_samples
from support import jpeg

from jobs.pack import KINDS
from pipeline.pack import SOURCES, pack, pack_dataset
from schemas.errors import UsageError


def test_every_source_is_a_choice_of_the_command() -> None:
    assert list(KINDS) == list(SOURCES)


def test_two_packs_are_equal_and_a_pack_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.cub(tmp_path / "in")
    pack("cub", source, tmp_path / "whole", "test", per_shard=1)
    pack("cub", source, tmp_path / "again", "test", per_shard=1)
    assert digests(tmp_path / "whole") == digests(tmp_path / "again")
    monkeypatch.setattr(pack_dataset, "_write_texts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pack("cub", source, tmp_path / "cut", "test", per_shard=1)
    monkeypatch.undo()
    (tmp_path / "cut" / "test-00001.tar").write_bytes(b"torn")
    (tmp_path / "cut" / ".pack" / "test-00000.json").unlink()
    (tmp_path / "cut" / ".vitatlas-00.part").write_bytes(b"of a killed writer")
    pack("cub", source, tmp_path / "cut", "test", per_shard=1)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


@pytest.mark.soak
def test_kills_at_any_moment_change_no_byte(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for number in range(240):
        sources.write(source / f"class {number % 3}" / f"{number}.jpg", jpeg(number))
    pack("folder", source, tmp_path / "whole", per_shard=5)
    command = [sys.executable, "-m", "jobs.cli", "pack", "folder", str(source), "--out", str(out), "--per-shard", "5"]
    for number in range(15):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        wanted = min(len(list(out.glob("*.tar"))) + 1 + number % 3, 48)
        while process.poll() is None and len(list(out.glob("*.tar"))) < wanted:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, check=False).returncode == 0
    assert digests(out) == digests(tmp_path / "whole")


def test_a_pack_into_its_own_source_is_refused(tmp_path: Path) -> None:
    source = sources.image_folder(tmp_path / "in")
    with pytest.raises(UsageError, match=r"is in the source, of which it would become a part"):
        pack("folder", source, source / "shards")
    assert not (source / "shards").exists()


def test_nothing_is_lost_without_a_word(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    sources.write(source / "a" / "same.jpg", jpeg(1))
    sources.write(source / "b" / "same.jpg", jpeg(2))
    sources.write(source / "a" / "x.y.jpg", jpeg(3))
    sources.write(source / "a" / "x_y.jpg", jpeg(4))
    sources.write(source / "a" / "new\nline \x1b[31m#1.jpg", jpeg(5))
    sources.write(source / "a" / "empty.jpg", b"")
    sources.write(source / "a" / "no image.png", b"hello, this is no image at all")
    sources.write(source / "a" / "notes.txt", "notes")
    sources.write(source / "loose.jpg", jpeg(6))
    (source / "a" / "dead.jpg").symlink_to("nowhere")
    (source / "b" / "link.jpg").symlink_to(source / "a" / "same.jpg")
    (source / "b" / "loop").symlink_to(source / "b")
    (source / "c").symlink_to(source / "a")
    _, samples = pack("folder", source, out)
    assert sorted(read_samples(out)) == sorted(
        [f"{name}/{key}" for name in "ac" for key in ("same", "x_y", "x_y-2", "new_line _[31m#1")]
        + ["b/same", "b/link"]
    )
    assert samples == 10
    reasons = left_out_of(out)
    assert {name: reasons[name].partition(":")[0] for name in reasons} == {
        "loose.jpg": "is in no folder of a class",
        **{f"{name}/empty.jpg": "is empty" for name in "ac"},
        **{f"{name}/no image.png": "cannot be read" for name in "ac"},
        **{f"{name}/notes.txt": "is not an image by its extension" for name in "ac"},
        **{f"{name}/dead.jpg": "is a link to a file that does not exist" for name in "ac"},
    }
    assert read_samples(out)["b/link"]["jpg"] == jpeg(1)


def test_another_pack_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    source, out = sources.image_folder(tmp_path / "in"), tmp_path / "out"
    pack("folder", source, out)
    before = digests(out)
    shutil.rmtree(source / "empty")
    with pytest.raises(UsageError, match=r"holds another pack: classes is 4, not 3; choose another --out"):
        pack("folder", source, out)
    assert digests(out) == before
    (tmp_path / "full").mkdir()
    sources.write(tmp_path / "full" / "mine.txt", "mine")
    with pytest.raises(UsageError, match=r"is not empty; choose another --out"):
        pack("folder", source, tmp_path / "full")
