"""Compare-and-swap of one object: in a folder under a lock of its file, on S3 by its ETag.

Other stores offer no condition through fsspec: there, another process may write between the comparison and the swap.
"""

import errno
import fcntl
import os
import threading
import time
from contextlib import suppress
from typing import IO, Any

from pipeline.utils.atomic_write import sync_folder, write_atomically
from schemas.base import sha256
from schemas.errors import RunFailedError

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF)
"""Error numbers of file systems without locks, such as Lustre mounted without ``flock``."""
_LOCK_TIMEOUT = 30.0
"""Seconds after which a process that holds a lock is taken for stopped; it usually has it for milliseconds."""
_IN_PROCESS = threading.Lock()


def swap_local(path: str, expected: str, data: bytes | None, temp_folder: str) -> bool:
    """Replace a file if its contents are as expected.

    Args:
        path: path of the file.
        expected: SHA-256 of its contents.
        data: new contents; None deletes it.
        temp_folder: see ``write_atomically``.

    Returns:
        Whether it was as expected.

    Raises:
        RunFailedError: another process holds the lock of the file and seems to be stopped.
    """
    while True:
        try:
            stream = _open(path)
        except FileNotFoundError:
            return False
        with stream:
            _lock(stream, path)
            if not _is_at(path, stream):
                continue  # another process has replaced or deleted it meanwhile
            if sha256(stream.read()) != expected:
                return False
            if data is None:
                os.unlink(path)
                sync_folder(os.path.dirname(path))
            else:
                write_atomically(path, data, temp_folder)
            return True


def _open(path: str) -> IO[bytes]:
    with suppress(PermissionError):
        return open(path, "r+b")  # NFS locks only files that are open for writing
    return open(path, "rb")


def _is_at(path: str, stream: IO[bytes]) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    return False


def _lock(stream: IO[bytes], path: str) -> None:
    end = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise RunFailedError(
                    f"{path}: another process has held its lock for {_LOCK_TIMEOUT:.0f} s and seems to be stopped; end "
                    "that process, and run the same command again to resume"
                ) from None
            time.sleep(0.01)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return
        else:
            return


def swap_s3(files: Any, path: str, expected: str, data: bytes | None) -> bool:
    """Replace an object of an s3fs file system if its contents are as expected; see ``swap_local``.

    Args:
        files: the file system.
        path: bucket and key.
        expected: SHA-256 of its contents.
        data: new contents; None deletes it.
    """
    while True:
        try:
            etag = files.info(path, refresh=True)["ETag"]
            current = sha256(files.cat_file(path))
        except FileNotFoundError:
            return False
        if data is not None and current == sha256(data):
            return True  # the response to an earlier try was lost
        if current != expected:
            return False
        if files.call(_swap_if_match, path, etag, data):
            return True


def _swap_if_match(path: str, files: Any, etag: str, data: bytes | None) -> bool:
    bucket, key, _ = files.split_path(path)
    try:
        if data is None:
            files.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=etag)
        else:
            files.call_s3("put_object", Bucket=bucket, Key=key, IfMatch=etag, Body=data)
    except FileNotFoundError:
        return False
    except OSError as error:
        response = getattr(error.__cause__, "response", None) or {}
        if response.get("Error", {}).get("Code") in ("PreconditionFailed", "412"):
            return False
        raise
    return True


def swap_unconditionally(files: Any, path: str, expected: str, data: bytes | None) -> bool:
    """Compare an object with what is expected, then replace it; atomic within this process only. See ``swap_local``.

    Args:
        files: the file system.
        path: path of the object.
        expected: SHA-256 of its contents.
        data: new contents; None deletes it.
    """
    with _IN_PROCESS:
        try:
            if sha256(files.cat_file(path)) != expected:
                return False
        except FileNotFoundError:
            return False
        if data is None:
            files.rm_file(path)
        else:
            files.pipe_file(path, data)
    return True
