"""Copies of remote shards on the local disk of a node."""

import errno
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.utils.io import PERMANENT_ERRNOS, url_to_fs
from schemas.base import sha256
from schemas.errors import UsageError

_PART_PREFIX, _PART_SUFFIX = ".vitatlas-", ".part"
_PART_MAX_AGE = 24 * 3600.0
"""Seconds after which an unfinished copy counts as abandoned."""


@dataclass(frozen=True)
class ShardCache:
    """A folder of copies, shared by all actors of a node and by later runs.

    A copy is named by the URL of its shard and by the store's metadata (length, time, ETag), so a replaced shard gets a
    new copy. A copy is complete or absent. There is no eviction: runs read shards sequentially, so the least recently
    used copy would be the one that is needed next. When the folder is full, shards are read over the network.

    Attributes:
        folder: local, absolute.
        limit: bytes of all copies; two actors that copy at the same moment may exceed it by a shard.

    Raises:
        UsageError: the folder cannot be created.
    """

    folder: str
    limit: int

    def __post_init__(self) -> None:
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.folder}: cannot be created ({error.strerror}); name a folder that every node can create"
            ) from None
        for part in Path(self.folder).glob(f"{_PART_PREFIX}*{_PART_SUFFIX}"):
            with suppress(FileNotFoundError):
                if part.stat().st_mtime < time.time() - _PART_MAX_AGE:
                    part.unlink()

    def cached_indices(self, urls: Sequence[str]) -> list[int]:
        """Return the indices of the shards that have a copy. The store is not read, so a copy may be outdated."""
        names = {name.partition("-")[0] for name in os.listdir(self.folder)}
        return [index for index, url in enumerate(urls) if _copy_name(url) in names] if names else []

    def local_path(self, url: str) -> str:
        """Return the path of the copy of a shard, which is made if there is room; else its URL.

        Raises:
            OSError: the download fails or is incomplete; another attempt may succeed.
        """
        if "://" not in url or url.startswith("pipe:"):
            return url
        files, path = url_to_fs(url)
        try:
            info = files.info(path)
        except FileNotFoundError:
            return url  # its reader reports what is wrong
        size = info.get("size")
        if "file" in files.protocol or size is None:
            return url
        copy = Path(self.folder, f"{_copy_name(url)}-{sha256(str(info).encode())[7:23]}.tar")
        if copy.is_file() and copy.stat().st_size == size:
            return str(copy)
        for outdated in Path(self.folder).glob(f"{_copy_name(url)}-*.tar"):
            outdated.unlink(missing_ok=True)
        if self._used_bytes() + size > self.limit:
            return url
        part = copy.with_name(f"{_PART_PREFIX}{uuid.uuid4().hex}{_PART_SUFFIX}")
        try:
            files.get_file(path, str(part))
            if part.stat().st_size != size:
                raise OSError(errno.EIO, f"received {part.stat().st_size} of {size} bytes", url)
            os.replace(part, copy)
        except OSError as error:
            if error.errno in PERMANENT_ERRNOS:  # the disk is full or read-only, which is no fault of the shard
                return url
            raise
        finally:
            part.unlink(missing_ok=True)
        return str(copy)

    def _used_bytes(self) -> int:
        used = 0
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):  # renamed just now
                used += entry.stat().st_size
        return used


def _copy_name(url: str) -> str:
    return sha256(url.encode())[7:39]
