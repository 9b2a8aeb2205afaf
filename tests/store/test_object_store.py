"""An object is written whole or not at all."""

import errno
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import fsspec
import pytest

from pipeline.store import ObjectStore, compare_and_swap
from schemas.base import sha256
from schemas.errors import RunFailedError, UsageError


@pytest.fixture(params=["local", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "local":
        yield ObjectStore(str(tmp_path / "atlas"))
    else:
        yield ObjectStore("memory://objects-test")
        fsspec.filesystem("memory").store.clear()


def test_what_is_put_is_there(objects: ObjectStore) -> None:
    record = objects.put("a/b.bin", b"one")
    assert (record.path, record.size, record.sha256) == ("a/b.bin", 3, sha256(b"one"))
    objects.put("a/b.bin", b"other")
    assert objects.get("a/b.bin") == b"other"
    objects.put("a/c.bin", b"")
    assert objects.list("a") == ["b.bin", "c.bin"]
    assert objects.exists("a/c.bin")
    assert not objects.exists("a/d.bin")
    assert objects.list("nowhere") == []
    with pytest.raises(FileNotFoundError):
        objects.get("a/d.bin")
    assert list(objects.read(["a/c.bin", "a/b.bin"])) == [b"", b"other"]
    assert list(objects.list_all()) == [("a/b.bin", 5), ("a/c.bin", 0)]
    objects.delete("a/c.bin")
    objects.delete("a/c.bin")
    assert objects.list("a") == ["b.bin"]


def test_an_object_is_created_once(objects: ObjectStore) -> None:
    assert objects.create("a/lease", b"mine")
    assert not objects.create("a/lease", b"yours")
    assert objects.get("a/lease") == b"mine"


def test_an_object_is_replaced_or_deleted_only_if_it_is_as_expected(objects: ObjectStore) -> None:
    first, second = sha256(b"first"), sha256(b"second")
    assert not objects.replace("a/lease", b"second", first)
    assert not objects.exists("a/lease")
    objects.put("a/lease", b"first")
    assert not objects.replace("a/lease", b"third", second)
    assert objects.get("a/lease") == b"first"
    assert objects.replace("a/lease", b"second", first)
    assert not objects.replace("a/lease", None, first)
    assert objects.get("a/lease") == b"second"
    assert objects.replace("a/lease", None, second)
    assert objects.list("a") == []


@pytest.mark.parametrize("local", [True, False])
def test_of_many_that_replace_one_wins(tmp_path: Path, local: bool) -> None:
    objects = ObjectStore(str(tmp_path) if local else "memory://replaced")
    objects.put("lease", b"0")
    for turn in range(5):
        together, expected = Barrier(8), sha256(objects.get("lease"))

        def replace(name: int, together: Barrier = together, expected: str = expected, turn: int = turn) -> bool:
            together.wait()
            return objects.replace("lease", f"{turn} of {name}".encode(), expected)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(replace, range(8)))
        assert won.count(True) == 1
        assert objects.get("lease") == f"{turn} of {won.index(True)}".encode()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_without_hard_links_an_object_is_still_created_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    objects = ObjectStore(str(tmp_path))
    assert objects.create("a", b"mine")
    assert not objects.create("a", b"yours")
    assert objects.get("a") == b"mine"
    assert os.listdir(tmp_path) == ["a"]


def test_a_process_that_is_stopped_with_a_lock_is_named_and_not_waited_for_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_and_swap, "_LOCK_TIMEOUT", 0.1)
    objects = ObjectStore(str(tmp_path))
    objects.put("lease", b"1")
    with (tmp_path / "lease").open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunFailedError, match=r"lease: another process has held its lock .* end that process"):
            objects.replace("lease", b"2", sha256(b"1"))
    assert objects.replace("lease", b"2", sha256(b"1"))


def test_where_there_are_no_locks_an_object_is_compared_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    objects = ObjectStore(str(tmp_path))
    objects.put("lease", b"1")
    assert not objects.replace("lease", b"3", sha256(b"2"))
    assert objects.replace("lease", b"2", sha256(b"1"))
    assert objects.get("lease") == b"2"


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    objects = ObjectStore(str(tmp_path))
    objects.put("a/b.bin", b"whole")
    (tmp_path / ".vitatlas-x1y2.part").write_bytes(b"half")
    assert [name for name, _ in objects.list_all()] == [".vitatlas-x1y2.part", "a/b.bin"]
    objects.remove_temp_files()
    assert [name for name, _ in objects.list_all()] == ["a/b.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = ObjectStore(str(tmp_path))
    objects.put("a.bin", b"before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(RunFailedError, match=r"cannot write a.bin: No space left on device; fix that"):
        objects.put("a.bin", b"after")
    monkeypatch.undo()
    assert objects.get("a.bin") == b"before"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_writer_that_was_taken_for_dead_writes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, real, swept = ObjectStore(str(tmp_path)), os.fsync, []

    def sweeping(handle: int) -> None:
        real(handle)
        if not swept:
            swept.extend(os.listdir(tmp_path))
            objects.remove_temp_files()

    monkeypatch.setattr(os, "fsync", sweeping)
    objects.put("a", b"1")
    assert len(swept) == 1
    assert os.listdir(tmp_path) == ["a"]
    assert objects.get("a") == b"1"


def test_files_can_be_read_by_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        ObjectStore(str(tmp_path)).put("a.bin", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o644


def test_an_unknown_protocol_is_a_users_mistake() -> None:
    with pytest.raises(UsageError, match="nosuch"):
        ObjectStore("nosuch://bucket/atlas")
