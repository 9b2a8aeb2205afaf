"""Copies of remote shards on a node's own disk: what is read again is read from there."""

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

_BEGUN, _UNFINISHED = ".vitatlas-", ".part"
_ABANDONED = 24 * 3600.0
"""Seconds after which nobody is writing to a copy any more."""


@dataclass(frozen=True)
class Cache:
    """A folder of copies, for all actors of a node and for later runs.

    A copy is named by the URL of its shard and by what the store says of it (length, time, ETag), so it is not taken for
    a shard that has been replaced. It is there whole or not at all. Nothing is thrown out to make room, since runs read
    shards in turn: what was thrown out would always be what is read next. When the folder is full, shards come over the
    network.

    Attributes:
        folder: local, absolute.
        limit: bytes of all copies; two actors that copy at the same moment may exceed it by a shard.

    Raises:
        UsageError: there can be no such folder.
    """

    folder: str
    limit: int

    def __post_init__(self) -> None:
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.folder}: is no place for copies ({error.strerror}); name a folder that every node can make"
            ) from None
        for part in Path(self.folder).glob(f"{_BEGUN}*{_UNFINISHED}"):
            with suppress(FileNotFoundError):
                if part.stat().st_mtime < time.time() - _ABANDONED:
                    part.unlink()

    def held(self, urls: Sequence[str]) -> list[int]:
        """Places of the shards of which there are copies here. No store is asked, so some may be out of date."""
        there = {name.partition("-")[0] for name in os.listdir(self.folder)}
        return [place for place, url in enumerate(urls) if _name(url) in there] if there else []

    def near(self, url: str) -> str:
        """Where a shard is best read from: its copy, which is made if there is room; else its URL.

        Raises:
            OSError: it does not come, or not all of it; another attempt may succeed.
        """
        if "://" not in url or url.startswith("pipe:"):
            return url
        files, path = url_to_fs(url)
        try:
            said = files.info(path)
        except FileNotFoundError:
            return url  # whoever reads it says what is wrong
        size = said.get("size")
        if "file" in files.protocol or size is None:
            return url
        copy = Path(self.folder, f"{_name(url)}-{sha256(str(said).encode())[7:23]}.tar")
        if copy.is_file() and copy.stat().st_size == size:
            return str(copy)
        for old in Path(self.folder).glob(f"{_name(url)}-*.tar"):
            old.unlink(missing_ok=True)
        if self._used() + size > self.limit:
            return url
        part = copy.with_name(f"{_BEGUN}{uuid.uuid4().hex}{_UNFINISHED}")
        try:
            files.get_file(path, str(part))
            if part.stat().st_size != size:
                raise OSError(errno.EIO, f"{part.stat().st_size} bytes came of {size}", url)
            os.replace(part, copy)
        except OSError as error:
            if error.errno in PERMANENT_ERRNOS:  # the disk is full or closed, which is no matter of the shard
                return url
            raise
        finally:
            part.unlink(missing_ok=True)
        return str(copy)

    def _used(self) -> int:
        used = 0
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):  # renamed just now
                used += entry.stat().st_size
        return used


def _name(url: str) -> str:
    return sha256(url.encode())[7:39]
