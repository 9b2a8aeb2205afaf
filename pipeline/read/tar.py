"""Samples of one tar: how members make a sample, scanned by their headers or read in full.

Scanning and reading share ``group``, so that a plan counts exactly what a run will read. A sample is named
by WebDataset's rule: its key is the path up to the first dot of the file name, its members follow one
another.
"""

import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Generic, TypeVar, cast

import fsspec
import webdataset
from webdataset.tariterators import base_plus_ext, tar_file_expander

from schemas.errors import BadTar
from schemas.run import ShardRecord

IMAGES = ("jpg", "jpeg", "jfif", "png", "webp", "ppm", "bmp")
"""Extensions of images, in the order in which one is taken where a sample has several."""
LABEL = "cls"
_OTHER_IMAGES = ("gif", "tif", "tiff", "avif", "heic", "jp2")  # not read, but not lost either

_META = re.compile(r"__[^/]*__($|/)")
_BLOCK = 512
# What tarfile and the decompressors under it raise for bytes that are no tar, or not all of one.
_BROKEN = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, zlib.error, lzma.LZMAError)
_REASONS = {
    "empty file": "it is empty",
    "unexpected end of data": "it is truncated",
    "could not be opened": "it is not a tar",
    "not a tar file": "it is not a tar",
}

T = TypeVar("T")


@dataclass
class Group(Generic[T]):
    """Members of one sample by lower-cased extension; what they hold is up to the reader.

    Attributes:
        names: of the members in the tar, by the same extension.
    """

    key: str
    members: dict[str, T]
    names: dict[str, str]

    def image(self) -> T | None:
        """The image member, if there is one."""
        return next((self.members[extension] for extension in IMAGES if extension in self.members), None)

    def image_name(self) -> str | None:
        """Its name in the tar."""
        return next((self.names[extension] for extension in IMAGES if extension in self.names), None)


def group(members: Iterable[tuple[str, T]]) -> Iterator[Group[T]]:
    """Join consecutive members into samples.

    A key that comes again, or an extension that the sample has already, begins another sample. Groups
    without image or label are not samples and are left out; ``photo.v2.jpg`` makes one (key ``photo``)
    that lacks an image, so that it is reported rather than lost.
    """
    current: Group[T] | None = None
    for name, value in members:
        key, extension = base_plus_ext(name)
        if key is None or _META.match(name) or name.rpartition("/")[2].startswith("."):
            continue  # hidden files, such as those that macOS puts beside each file
        extension = extension.lower()
        if current is None or key != current.key or extension in current.members:
            if current is not None and _is_sample(current):
                yield current
            current = Group(key, {}, {})
        current.members[extension] = value
        current.names[extension] = name
    if current is not None and _is_sample(current):
        yield current


def key_of(name: str) -> str:
    """The key of a file by WebDataset's rule, without a leading ``./``; its name where it has no extension."""
    return str(base_plus_ext(name)[0] or name).removeprefix("./")


def _is_sample(candidate: Group[Any]) -> bool:
    return any(ext == LABEL or ext.rpartition(".")[2] in (*IMAGES, *_OTHER_IMAGES) for ext in candidate.members)


def read(shard: ShardRecord, room: int) -> Iterator[Group[bytes]]:
    """Samples of a tar with the bytes of their members. Nothing is decoded here.

    A tar that can be sought in is scanned first, so that one that is damaged, even behind its last sample,
    yields nothing. One that was damaged when it was planned and is whole now may hold any number of samples
    that there is room for.

    Args:
        room: rows that the tar owns.

    Raises:
        BadTar: it cannot be read to its end, or does not hold as many samples as were planned.
    """
    expected = None if shard.problem else shard.samples
    if _is_local(shard.url):
        found = scan(shard.url)
        if found.problem:
            raise BadTar(f"{shard.url}: {found.problem}")
        _compare(shard.url, found.samples, expected, room)
    count = 0
    try:
        with _open(shard.url) as stream:
            source = partial(iter, [{"url": shard.url, "stream": stream}])
            files = webdataset.DataPipeline(source, _expand)
            for sample in group((file["fname"], file["data"]) for file in files):
                count += 1
                if count <= room:
                    yield sample
    except _BROKEN as error:
        raise BadTar(f"{shard.url}: cannot be read past sample {count}: {_reason(error)}") from error
    _compare(shard.url, count, expected, room)


def _compare(url: str, count: int, expected: int | None, room: int) -> None:
    if expected is not None and count != expected:
        raise BadTar(f"{url}: {expected} samples were planned, it holds {count}; restore it, or plan another atlas")
    if count > room:
        raise BadTar(f"{url}: it holds {count} samples, but has room for {room}; plan another atlas")


def _expand(source: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    # The default ends each tar with an empty marker; with one tar to a pipeline there is nothing to part.
    return cast(Iterator[dict[str, Any]], tar_file_expander(source, eof_value=None))


@dataclass(frozen=True)
class Scan:
    """What the headers of a tar say: samples, bytes (−1: unknown), and what is wrong with it."""

    samples: int
    size: int
    problem: str | None


def scan(url: str) -> Scan:
    """Count the samples of a tar by its headers; the contents are skipped over.

    Never raises for what is wrong with a tar: the problem is returned, with the samples in front of it.
    """
    count, size, linked = 0, -1, None
    try:
        with _open(url) as stream:
            seekable = not url.startswith("pipe:")
            if seekable:
                size = stream.seek(0, io.SEEK_END)
                stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:*" if seekable else "r|*") as archive:
                names: list[tuple[str, None]] = []
                for member in archive:
                    if member.isreg():
                        names.append((member.name, None))
                    elif member.islnk() and linked is None:
                        linked = member.name
                count = sum(1 for _ in group(names))
                problem = _ending(cast(IO[bytes], archive.fileobj), archive.offset) if seekable else None
    except _BROKEN as error:
        problem = _reason(error)
    if problem is None and linked is not None:
        problem = f"{linked} is a hard link, whose contents a stream cannot find; pack it with --hard-dereference"
    if problem is None and count == 0:
        problem = "it holds no samples"
    return Scan(count, size, problem)


def _ending(stream: IO[bytes], offset: int) -> str | None:
    """What is wrong where the headers end. Python's tarfile takes a broken header for the end, silently.

    Reading on to the end also makes a compressed stream compare its checksum.
    """
    stream.seek(offset)
    block = stream.read(_BLOCK)
    if not block:
        return f"it is truncated: it ends at byte {offset} without the mark of its end"
    if block.strip(b"\0"):
        return f"its header at byte {offset} is broken"
    while block:
        block = stream.read(1 << 20)
        if block.strip(b"\0"):
            return f"something follows the mark of its end at byte {offset}"
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = str(error.args[0] if error.args else error).strip().partition("\n")[0]
    for says, reason in _REASONS.items():
        if says in text:
            return reason
    return f"{text} ({type(error).__name__})"


def _is_local(url: str) -> bool:
    return "://" not in url and not url.startswith("pipe:")


@contextmanager
def _open(url: str) -> Iterator[IO[bytes]]:
    if url.startswith("pipe:"):
        with webdataset.gopen(url, "rb") as stream:
            yield stream
    elif "://" not in url:
        with open(url, "rb") as stream:
            if not os.fstat(stream.fileno()).st_size:
                raise tarfile.ReadError("empty file")
            yield stream
    else:
        with fsspec.open(url, "rb") as stream:
            yield stream
