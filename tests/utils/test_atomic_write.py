"""A folder that cannot be flushed, as on some network disks, is written to; a disk that fails is named."""

import errno
import os
import stat
from pathlib import Path

import pytest

from pipeline.store import ObjectStore
from pipeline.utils.atomic_write import write_atomically


def folders_fail(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    plain = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_does_not_flush_folders_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folders_fail(monkeypatch, number)
    objects = ObjectStore(str(tmp_path / "a" / "b"))
    objects.put("c/d.json", b"content")
    assert objects.get("c/d.json") == b"content"
    objects.delete("c/d.json")
    assert not objects.exists("c/d.json")


def test_a_disk_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders_fail(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as raised:
        write_atomically(str(tmp_path / "a.json"), b"content")
    assert raised.value.filename == str(tmp_path)


def test_a_file_that_cannot_be_flushed_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike the folder: without it the contents may be lost."""

    def fsync(handle: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Invalid argument"):
        write_atomically(str(tmp_path / "a.json"), b"content")
    assert not list(tmp_path.iterdir())
