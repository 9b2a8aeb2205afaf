"""Objects in a folder or a bucket: the one place where an atlas is written.

Every object is whole or absent: a folder gets a temporary file, flushed, renamed, and its folder flushed; a
bucket gets a single request. Deleting what is not there is no error, so that anything may be done again.
"""

import errno
import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from pipeline.utils.concurrency import concurrent_map
from pipeline.utils.io import PERMANENT_ERRNOS, url_to_fs
from schemas.base import sha256
from schemas.commits import ObjectRecord
from schemas.errors import RunFailedError

_BEGUN, _UNFINISHED = ".vitatlas-", ".part"


class ObjectStore:
    """Objects below one URL, by their relative path.

    Args:
        url: a local path or any fsspec URL.
    """

    def __init__(self, url: str) -> None:
        self.files, self.root = url_to_fs(url)
        self.local = "file" in (
            self.files.protocol if isinstance(self.files.protocol, tuple) else (self.files.protocol,)
        )
        self.url = os.path.abspath(self.root) if self.local else self.files.unstrip_protocol(self.root)

    def path(self, name: str) -> str:
        """Full path of an object in its file system.

        Raises:
            RunFailedError: the name leads out of here. Names stand in records, which may be a stranger's.
        """
        if {"", ".", ".."} & set(name.split("/")) or "\\" in name or "\0" in name:
            raise RunFailedError(f"{self.url}: {name!r} is no name of an object in it; somebody made that up")
        return f"{self.root.rstrip('/')}/{name}"

    def put(self, name: str, data: bytes) -> ObjectRecord:
        """Write an object whole or not at all, over whatever was there.

        Raises:
            RunFailedError: nothing can be written there: no space, no permission.
        """
        with self._writing(name):
            if self.local:
                _replace(self.root, self.path(name), data)
            else:
                self.files.pipe_file(self.path(name), data)
        return ObjectRecord(path=name, size=len(data), sha256=sha256(data))

    def put_file(self, name: str, path: Path) -> ObjectRecord:
        """Write an object that may be larger than memory: a local file that is not empty. As ``put`` otherwise."""
        with open(path, "rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
            with self._writing(name):
                if self.local:
                    _replace(self.root, self.path(name), data)
                else:
                    self.files.put_file(str(path), self.path(name))
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return ObjectRecord(path=name, size=len(data), sha256=f"sha256:{digest}")

    def create(self, name: str, data: bytes) -> bool:
        """Write an object only if there is none of that name, and say whether. A crash may leave it torn.

        Args:
            data: says who writes it. Where an answer got lost on its way, the next try finds the object there,
                and only what it holds tells whose it is.

        Raises:
            RunFailedError: see ``put``.
        """
        with self._writing(name):
            try:
                if self.local:
                    _make(os.path.dirname(self.path(name)))
                    with open(self.path(name), "xb") as stream:
                        stream.write(data)
                else:
                    self.files.pipe_file(self.path(name), data, mode="create")
            except FileExistsError:
                return not self.local and self._holds(name, data)
        return True

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self.get(name) == data
        except FileNotFoundError:  # another's, and gone again
            return False

    def delete(self, name: str) -> None:
        """Remove an object, if it is there.

        Raises:
            RunFailedError: see ``put``.
        """
        with self._writing(name):
            try:
                if self.local:
                    os.unlink(self.path(name))
                    _flush(os.path.dirname(self.path(name)))
                else:
                    self.files.rm_file(self.path(name))
            except FileNotFoundError:
                return

    def get(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes of an object, or of a part of it. A start below 0 counts from its end.

        Raises:
            FileNotFoundError: there is none.
        """
        data: Any = self.files.cat_file(self.path(name), start=start, end=end)
        return bytes(data)

    def read(self, names: Sequence[str]) -> Iterator[bytes]:
        """Bytes of many objects, in order, of which a few at a time are in memory.

        Raises:
            FileNotFoundError: one is missing.
        """
        return concurrent_map(self.get, names)

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return bool(self.files.exists(self.path(name)))

    def list(self, folder: str) -> list[str]:
        """Names of the objects right in a folder, sorted; temporary files are not among them."""
        try:
            entries = self.files.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        names = (entry.rstrip("/").rpartition("/")[2] for entry in entries)
        return sorted(name for name in names if not name.startswith("."))

    def walk(self) -> Iterator[tuple[str, int]]:
        """Names and lengths of all objects, sorted, with those that a killed writer left unfinished."""
        found = self.files.find(self.root, detail=True)
        for path in sorted(found):
            yield path[len(self.root.rstrip("/")) + 1 :], int(found[path]["size"])

    def sweep(self) -> None:
        """Remove what killed writers left unfinished. Nobody else may be writing."""
        if self.local and os.path.isdir(self.root):
            for name in os.listdir(self.root):
                if unfinished(name):
                    with suppress(FileNotFoundError):  # its writer was alive after all
                        os.unlink(self.path(name))

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Say what stands in the way where nobody could write."""
        try:
            yield
        except OSError as error:
            # A bucket that does not exist is a file that was not found.
            if error.errno in PERMANENT_ERRNOS or isinstance(error, PermissionError | FileNotFoundError):
                reason = error.strerror or error
                raise RunFailedError(
                    f"{self.url}: cannot write {name}: {reason}; mend that, and the same command goes on"
                ) from error
            raise


def unfinished(name: str) -> bool:
    """Whether an object is what a killed writer left of it."""
    return name.startswith(_BEGUN) and name.endswith(_UNFINISHED)


def _replace(root: str, target: str, data: bytes | mmap) -> None:
    folder = os.path.dirname(target)
    _make(folder)
    # Unfinished files stand in the root, where they are found without a walk over everything.
    beside = os.stat(root).st_dev == os.stat(folder).st_dev
    temporary = os.path.join(root if beside else folder, f"{_BEGUN}{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        while not _renamed(temporary, target, data):
            continue  # somebody took this writer for dead and swept up after it
    except BaseException:
        with suppress(FileNotFoundError):  # a signal may come right after the replacement
            os.unlink(temporary)
        raise
    _flush(folder)


def _renamed(temporary: str, target: str, data: bytes | mmap) -> bool:
    with open(temporary, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.replace(temporary, target)
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(target)):
            raise
        return False
    return True


def _make(folder: str) -> None:
    """A folder and those above it, each flushed into the one it stands in."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make(above)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
    _flush(above)


def _flush(folder: str) -> None:
    """Make sure that the names in a folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
