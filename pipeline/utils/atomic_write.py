"""Atomic writes to a local folder: a temporary file, flushed, renamed, and its folder flushed."""

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from mmap import mmap
from typing import BinaryIO

_PREFIX, _SUFFIX = ".vitatlas-", ".part"
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Error numbers of file systems that do not flush folders, such as CIFS and some of FUSE."""

_CANNOT_LINK = (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Error numbers of file systems without hard links, such as FAT, exFAT, and some of FUSE."""


def is_temp_file(name: str) -> bool:
    """Return whether a file is what a killed writer left."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def write_atomically(path: str, data: bytes | mmap, temp_folder: str | None = None, exclusive: bool = False) -> None:
    """Write a file whole or not at all. Missing folders are made.

    Args:
        path: path of the file.
        data: its contents.
        temp_folder: folder of the temporary file, if it is on the same device; None: the folder of the file.
        exclusive: keep a file that is there.

    Raises:
        FileExistsError: there is a file, and ``exclusive``.
    """
    folder = os.path.dirname(os.path.abspath(path))
    make_folder(folder)
    if temp_folder is None or os.stat(temp_folder).st_dev != os.stat(folder).st_dev:
        temp_folder = folder
    temp_path = os.path.join(temp_folder, f"{_PREFIX}{uuid.uuid4().hex}{_SUFFIX}")
    try:
        while not _write_and_move(temp_path, path, data, _link if exclusive else os.replace):
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


def _write_and_move(temp_path: str, path: str, data: bytes | mmap, move: Callable[[str, str], None]) -> bool:
    with open(temp_path, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    try:
        move(temp_path, path)
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(path)):
            raise
        return False
    return True


def _link(temp_path: str, path: str) -> None:
    """Give a temporary file its name, unless there is a file of that name."""
    try:
        os.link(temp_path, path)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        # The name is taken by an empty file, which a crash leaves.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temp_path, path)
    else:
        with suppress(FileNotFoundError):  # removed by another process
            os.unlink(temp_path)


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
