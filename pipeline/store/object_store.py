"""Object store in a local folder or a bucket. All writes to an atlas go through it.

Every write is atomic: in a folder by ``write_atomically``, in a bucket by a single request. Deleting a missing object
is no error, so every operation can be repeated.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from pipeline.store.compare_and_swap import swap_local, swap_s3, swap_unconditionally
from pipeline.utils.atomic_write import is_temp_file, sync_folder, write_atomically
from pipeline.utils.concurrency import concurrent_map
from pipeline.utils.io import PERMANENT_ERRNOS, url_to_fs
from schemas.base import sha256
from schemas.commits import ObjectRecord
from schemas.errors import RunFailedError

_CHUNK = 1 << 24
"""Bytes of an object that are hashed at a time."""


class ObjectStore:
    """Objects below one URL, named by their relative path.

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
        """Return the full path of an object in its file system.

        Raises:
            RunFailedError: the name leads out of the folder. Records hold names, and may come from others.
        """
        if {"", ".", ".."} & set(name.split("/")) or "\\" in name or "\0" in name:
            raise RunFailedError(
                f"{self.url}: {name!r} is not a valid object name; the record that holds it is damaged"
            )
        return f"{self.root.rstrip('/')}/{name}"

    def put(self, name: str, data: bytes) -> ObjectRecord:
        """Write an object atomically, over an existing one.

        Args:
            name: name of the object.
            data: its contents.

        Raises:
            RunFailedError: the store is not writable: no space, no permission.
        """
        with self._writing(name):
            if self.local:
                write_atomically(self.path(name), data, self.root)
            else:
                self.files.pipe_file(self.path(name), data)
        return ObjectRecord(path=name, size=len(data), sha256=sha256(data))

    def put_file(self, name: str, path: Path) -> ObjectRecord:
        """Write an object that may be larger than memory, as ``put``.

        Args:
            name: name of the object.
            path: a local file that is not empty.
        """
        with open(path, "rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
            with self._writing(name):
                if self.local:
                    write_atomically(self.path(name), data, self.root)
                else:
                    self.files.put_file(str(path), self.path(name))
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return ObjectRecord(path=name, size=len(data), sha256=f"sha256:{digest}")

    def create(self, name: str, data: bytes) -> bool:
        """Write an object atomically, only if none has its name.

        Args:
            name: name of the object.
            data: its contents.

        Returns:
            Whether the object has these contents now: this call wrote it, or one before whose response was lost, or
            another writer the same.

        Raises:
            RunFailedError: see ``put``.
        """
        with self._writing(name):
            try:
                if self.local:
                    write_atomically(self.path(name), data, self.root, exclusive=True)
                else:
                    self.files.pipe_file(self.path(name), data, mode="create")
            except FileExistsError:
                return self._equals(name, data)
        return True

    def _equals(self, name: str, data: bytes) -> bool:
        try:
            return self.get(name) == data
        except FileNotFoundError:  # it was another's and is deleted again
            return False

    def replace(self, name: str, data: bytes | None, expected: str) -> bool:
        """Replace or delete an object atomically, only if its contents are as expected: a compare-and-swap.

        It is one operation in a folder and on S3 (``If-Match``); in other stores another process may write between
        comparison and replacement.

        Args:
            name: name of the object.
            data: its new contents; None deletes it.
            expected: SHA-256 of its contents before.

        Returns:
            Whether the contents were as expected, or are the new ones already, as where a response was lost.

        Raises:
            RunFailedError: see ``put``.
        """
        path = self.path(name)
        with self._writing(name):
            if self.local:
                return swap_local(path, expected, data, self.root)
            swap = swap_s3 if "s3" in self.files.protocol else swap_unconditionally
            return swap(self.files, path, expected, data)

    def delete(self, name: str) -> None:
        """Delete an object if it exists.

        Raises:
            RunFailedError: see ``put``.
        """
        with self._writing(name):
            try:
                if self.local:
                    os.unlink(self.path(name))
                    sync_folder(os.path.dirname(self.path(name)))
                else:
                    self.files.rm_file(self.path(name))
            except FileNotFoundError:
                return

    def get(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of an object, or of a part of it.

        Args:
            name: name of the object.
            start: first byte; below 0 it counts from the end.
            end: byte after the last.

        Raises:
            FileNotFoundError: the object does not exist.
        """
        data: Any = self.files.cat_file(self.path(name), start=start, end=end)
        return bytes(data)

    def read(self, names: Sequence[str]) -> Iterator[bytes]:
        """Yield the bytes of many objects in order, with only a few in memory.

        Raises:
            FileNotFoundError: an object does not exist.
        """
        return concurrent_map(self.get, names)

    def exists(self, name: str) -> bool:
        """Return whether an object exists."""
        return bool(self.files.exists(self.path(name)))

    def list(self, folder: str) -> list[str]:
        """Return the names of the objects directly in a folder, sorted, without temporary files."""
        try:
            entries = self.files.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        names = (entry.rstrip("/").rpartition("/")[2] for entry in entries)
        return sorted(name for name in names if not name.startswith("."))

    def list_all(self) -> Iterator[tuple[str, int]]:
        """Yield names and sizes of all objects, sorted, temporary files included."""
        details = self.files.find(self.root, detail=True)
        for path in sorted(details):
            yield path[len(self.root.rstrip("/")) + 1 :], int(details[path]["size"])

    def find_difference(self, record: ObjectRecord) -> str | None:
        """Return how an object differs from its record, if it does; the object may be larger than memory.

        Raises:
            RunFailedError: the record names an object outside of the folder.
        """
        path, digest = self.path(record.path), hashlib.sha256()
        try:
            size = int(self.files.size(path))
            if size != record.size:
                return f"{record.path}: has {size} bytes, {record.size} were written"
            for start in range(0, size, _CHUNK):
                digest.update(self.get(record.path, start, min(start + _CHUNK, size)))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return f"{record.path}: is missing"
        if f"sha256:{digest.hexdigest()}" != record.sha256:
            return f"{record.path}: its contents have changed since they were written"
        return None

    def remove_temp_files(self) -> None:
        """Remove the temporary files of killed writers. No other process may be writing."""
        if self.local and os.path.isdir(self.root):
            for name in os.listdir(self.root):
                if is_temp_file(name):
                    with suppress(FileNotFoundError):  # its writer is alive and has renamed it
                        os.unlink(self.path(name))

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Turn errors that no retry can fix into a ``RunFailedError``."""
        try:
            yield
        except OSError as error:
            # A bucket that does not exist raises FileNotFoundError.
            if error.errno in PERMANENT_ERRNOS or isinstance(error, PermissionError | FileNotFoundError):
                reason = error.strerror or error
                raise RunFailedError(
                    f"{self.url}: cannot write {name}: {reason}; fix that and run the same command again to resume"
                ) from error
            raise
