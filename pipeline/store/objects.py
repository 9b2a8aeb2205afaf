"""Objects in a folder or a bucket. Every byte of an atlas is written by ``Objects.put``."""

import os
import tempfile
from typing import Any

from pipeline.files import locate
from schemas.record import sha256
from schemas.run import ObjectRecord


class Objects:
    """Objects below one URL, by their relative path.

    Args:
        url: a local path or any fsspec URL.
    """

    def __init__(self, url: str) -> None:
        self.files, self.root = locate(url)
        self.local = "file" in (
            self.files.protocol if isinstance(self.files.protocol, tuple) else (self.files.protocol,)
        )
        self.url = os.path.abspath(self.root) if self.local else self.files.unstrip_protocol(self.root)

    def path(self, name: str) -> str:
        """Full path of an object in its file system."""
        return f"{self.root.rstrip('/')}/{name}"

    def put(self, name: str, data: bytes) -> ObjectRecord:
        """Write an object whole or not at all, over whatever was there.

        Local: a temporary file beside it, fsync, rename, fsync of the folder. Elsewhere: one PUT.
        """
        target = self.path(name)
        if self.local:
            _replace(target, data)
        else:
            self.files.pipe_file(target, data)
        return ObjectRecord(path=name, size=len(data), sha256=sha256(data))

    def get(self, name: str) -> bytes:
        """Bytes of an object.

        Raises:
            FileNotFoundError: there is none.
        """
        data: Any = self.files.cat_file(self.path(name))
        return bytes(data)

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return bool(self.files.exists(self.path(name)))

    def list(self, folder: str) -> list[str]:
        """Names of the objects right in a folder, sorted; temporary files are not among them."""
        try:
            entries = self.files.ls(self.path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        names = (entry.rstrip("/").rpartition("/")[2] for entry in entries)
        return sorted(name for name in names if not name.startswith("."))


def _replace(target: str, data: bytes) -> None:
    folder = os.path.dirname(target)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    folder_handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_handle)
    finally:
        os.close(folder_handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
