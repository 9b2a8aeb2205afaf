"""Atomic writes to a local folder: a temporary file, flushed, renamed, and its folder flushed."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from mmap import mmap
from typing import BinaryIO

_PREFIX, _SUFFIX = ".vitatlas-", ".part"
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Error numbers of file systems that do not flush folders, such as CIFS and some of FUSE."""


def is_temp_file(name: str) -> bool:
    """Return whether a file is what a killed writer left."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def write_atomically(path: str, data: bytes | mmap, temp_folder: str | None = None) -> None:
    """Write a file whole or not at all, over an existing one. Missing folders are made.

    Args:
        path: path of the file.
        data: its contents.
        temp_folder: folder of the temporary file, if it is on the same device; None: the folder of the file.
    """
    folder = os.path.dirname(os.path.abspath(path))
    make_folder(folder)
    if temp_folder is None or os.stat(temp_folder).st_dev != os.stat(folder).st_dev:
        temp_folder = folder
    temp_path = os.path.join(temp_folder, f"{_PREFIX}{uuid.uuid4().hex}{_SUFFIX}")
    try:
        while not _write_and_rename(temp_path, path, data):
            continue  # another process took this writer for dead and removed its temporary file
    except BaseException:
        with suppress(FileNotFoundError):  # a signal may arrive right after the rename
            os.unlink(temp_path)
        raise
    sync_folder(folder)


@contextmanager
def open_atomically(path: str) -> Iterator[BinaryIO]:
    """Open a file that appears whole when the context ends without an error, over an existing one.

    Args:
        path: of the file; its folder exists.
    """
    folder = os.path.dirname(os.path.abspath(path))
    temp_path = os.path.join(folder, f"{_PREFIX}{uuid.uuid4().hex}{_SUFFIX}")
    try:
        with open(temp_path, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temp_path, path)
    except BaseException:
        with suppress(FileNotFoundError):  # a signal may arrive right after the rename
            os.unlink(temp_path)
        raise
    sync_folder(folder)


def _write_and_rename(temp_path: str, path: str, data: bytes | mmap) -> bool:
    with open(temp_path, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.replace(temp_path, path)
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(path)):
            raise
        return False
    return True


def make_folder(folder: str) -> None:
    """Make a folder and its parents, each flushed into its parent."""
    folder = os.path.abspath(folder)
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(folder)
    make_folder(parent)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
    sync_folder(parent)


def sync_folder(folder: str) -> None:
    """Flush a folder, so that the names in it survive a power loss; some file systems cannot, and are left to it.

    Raises:
        OSError: the disk fails; the error names the folder.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise OSError(error.errno, error.strerror, folder) from error
    finally:
        os.close(handle)
