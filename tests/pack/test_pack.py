"""A pack is the same every time, whatever interrupts it, and nothing is lost on the way."""

import builtins
import errno
import io
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pack_sources as sources
import pytest
from pack_sources import digests, left_out_of, read_samples
from support import Crash, jpeg, soak_after, soaking

from jobs.pack import KINDS
from pipeline.pack import SOURCES, pack
from pipeline.utils.process_pool import ProcessPool
from schemas.errors import UsageError


def test_every_source_is_a_choice_of_the_command() -> None:
    assert list(KINDS) == list(SOURCES)


@pytest.mark.parametrize("name", sources.ALL)
def test_two_packs_of_a_source_are_equal(name: str, tmp_path: Path) -> None:
    kind, source, split = sources.ALL[name](tmp_path / "in")
    for out in ("first", "second"):
        pack(kind, source, tmp_path / out, split, per_shard=2)
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


@pytest.mark.parametrize("name", ["lists of masks", *soak_after(0, sorted(set(sources.ALL) - {"lists of masks"}))])
def test_a_kill_before_any_operation_changes_no_byte(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, source, split = sources.ALL[name](tmp_path / "in")
    pack(kind, source, tmp_path / "whole", split, per_shard=1)
    whole = digests(tmp_path / "whole")
    for count in itertools.count(1, 1 if soaking() else 3):
        out = tmp_path / f"cut {count}"
        with killed_before(count, monkeypatch) as killed:
            pack(kind, source, out, split, per_shard=1)
        pack(kind, source, out, split, per_shard=1)
        assert digests(out) == whole, count
        if not killed:
            break
    assert count > 15


@contextmanager
def killed_before(count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """From the given operation on that changes a file or folder, nothing is changed any more."""
    left, killed = itertools.count(count - 1, -1), list[None]()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            if next(left) <= 0:
                killed.append(None)
                raise Crash
            return function(*arguments, **options)

        return instead

    with monkeypatch.context() as patched, suppress(Crash):
        for module, names in {
            os: ("replace", "mkdir", "unlink", "rmdir", "fsync"),
            shutil: ("copyfile", "rmtree"),
            Path: ("write_text", "mkdir"),
        }.items():
            for name in names:
                patched.setattr(module, name, counted(getattr(module, name)))
        yield killed


def test_a_shard_that_was_torn_is_written_again(tmp_path: Path) -> None:
    source = sources.cub(tmp_path / "in")
    for out in ("whole", "cut"):
        pack("cub", source, tmp_path / out, "test", per_shard=1)
    (tmp_path / "cut" / "test-00001.tar").write_bytes(b"torn")
    (tmp_path / "cut" / ".pack" / "test-00000.json").unlink()
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
    for form in ("NFC", "NFD"):
        sources.write(source / "b" / f"{unicodedata.normalize(form, 'é')}.jpg", jpeg(7))
    sources.write(source / "b" / "same.png", jpeg(8))
    sources.write(source / "b" / ".ipynb_checkpoints" / "same-checkpoint.jpg", jpeg(2))
    sources.write(source / "b" / "._same.jpg", jpeg(2))
    sources.write(source / "a" / "empty.jpg", b"")
    sources.write(source / "a" / "no image.png", b"hello, this is no image at all")
    sources.write(source / "a" / "notes.txt", "notes")
    sources.write(source / "loose.jpg", jpeg(6))
    (source / "a" / "dead.jpg").symlink_to("nowhere")
    (source / "b" / "link.jpg").symlink_to(source / "a" / "same.jpg")
    (source / "b" / "loop").symlink_to(source / "b")
    (source / "b" / "me.jpg").symlink_to("me.jpg")
    os.mkfifo(source / "b" / "pipe.jpg")
    (source / "c").symlink_to(source / "a")
    notes: list[str] = []
    _, samples = pack("folder", source, out, log=notes.append)
    assert sorted(read_samples(out)) == sorted(
        [f"{name}/{key}" for name in "ac" for key in ("same", "x_y", "x_y-2", "new_line _[31m#1")]
        + ["b/same", "b/same-2", "b/link", "b/é", "b/e\u0301"]
    )
    assert samples == 13
    assert notes == [
        "7 of 15 keys are not the names of their images, such as a/new_line _[31m#1 of a/new\nline \x1b[31m#1.jpg: "
        "truth of your own must name these images by their keys",
        "14 entries in left_out.csv: 3 × is a link to a file that does not exist, 2 × is empty, "
        "2 × is not an image by its extension, 2 × is hidden, or in a hidden folder, 2 × cannot be read",
    ]
    reasons = left_out_of(out)
    assert {name: reasons[name].partition(":")[0] for name in reasons} == {
        "loose.jpg": "is in no folder of a class",
        **{f"{name}/empty.jpg": "is empty" for name in "ac"},
        **{f"{name}/no image.png": "cannot be read" for name in "ac"},
        **{f"{name}/notes.txt": "is not an image by its extension" for name in "ac"},
        **dict.fromkeys(("a/dead.jpg", "c/dead.jpg", "b/me.jpg"), "is a link to a file that does not exist"),
        "b/loop": "is a link to a folder",
        "b/pipe.jpg": "is not a file",
        **dict.fromkeys(
            ["b/.ipynb_checkpoints/same-checkpoint.jpg", "b/._same.jpg"], "is hidden, or in a hidden folder"
        ),
    }
    assert read_samples(out)["b/link"]["jpg"] == jpeg(1)


def test_files_and_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources.image_folder(tmp_path / "in")
    secret = source / "Zebra" / "img 1.v1.JPG"

    def refuse(refused: Path, function: Callable[..., Any]) -> Callable[..., Any]:
        def instead(path: Any, *arguments: Any, **options: Any) -> Any:
            if path == refused or path == str(refused):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *arguments, **options)

        return instead

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", refuse(secret, open))
        _, samples = pack("folder", source, tmp_path / "content")
    assert samples == 5
    assert left_out_of(tmp_path / "content")["Zebra/img 1.v1.JPG"].startswith("cannot be read: [Errno 13] Permission")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", refuse(secret, Path.stat))
        names = ["Zebra/img 0.v1.JPG", "Zebra/img 1.v1.JPG"]
        table = sources.write(source / "list.csv", "".join(f"{line}\n" for line in ["path", *names]))
        pack("folder", table, tmp_path / "size")
    assert left_out_of(tmp_path / "size") == {names[1]: "cannot be read: Permission denied"}
    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", refuse(source / "Zebra", Path.iterdir))
        with pytest.raises(UsageError, match="Zebra: Permission denied; make it readable, or remove it"):
            pack("folder", source, tmp_path / "folder")


@pytest.mark.soak
def test_shards_that_are_written_on_ray_are_the_same(tmp_path: Path) -> None:
    kind, source, split = sources.ALL["voc"](tmp_path / "in")
    pack(kind, source, tmp_path / "here", split, per_shard=1)
    pack(kind, source, tmp_path / "ray", split, per_shard=1, address="local")
    assert digests(tmp_path / "ray") == digests(tmp_path / "here")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_shards_are_written_side_by_side_while_a_bar_shows_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.image_folder(tmp_path / "in")
    pack("folder", source, tmp_path / "alone", per_shard=1)
    pools: list[int] = []
    make = ProcessPool.__init__
    monkeypatch.setattr(ProcessPool, "__init__", lambda pool, *given: (pools.append(given[0]), make(pool, *given))[1])
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    pack("folder", source, tmp_path / "shared", per_shard=1)
    assert pools == [2]
    assert re.search(r"pack .*6/6 .*left 0:00:00", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue()))
    assert digests(tmp_path / "shared") == digests(tmp_path / "alone")


def test_a_second_split_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    source = sources.cub(tmp_path / "in")
    pack("cub", source, tmp_path / "out", "test")
    before = digests(tmp_path / "out")
    with pytest.raises(UsageError, match="holds another pack: split is 'test', not 'train'; choose another --out"):
        pack("cub", source, tmp_path / "out", "train")
    assert digests(tmp_path / "out") == before


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
