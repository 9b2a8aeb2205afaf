"""Samples of one tar: how members make a sample, scanned by their headers or read in full.

Scanning and reading share ``group``, so that a plan counts exactly what a run will read. A sample is named
by WebDataset's rule: its key is the path up to the first dot of the file name, its members follow one
another.
"""

import io
import os
import re
import tarfile
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

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp")
"""Extensions of images, in the order in which one is taken where a sample has several."""
LABEL = "cls"

_META = re.compile(r"__[^/]*__($|/)")
_BLOCK = 512
_SLACK = 2 * tarfile.RECORDSIZE

T = TypeVar("T")


@dataclass
class Group(Generic[T]):
    """Members of one sample by lower-cased extension; what they hold is up to the reader."""

    key: str
    members: dict[str, T]

    def image_extension(self) -> str | None:
        """Extension of the image member, if there is one."""
        return next((extension for extension in IMAGES if extension in self.members), None)

    def image(self) -> T | None:
        """The image member, if there is one."""
        extension = self.image_extension()
        return None if extension is None else self.members[extension]


def group(members: Iterable[tuple[str, T]]) -> Iterator[Group[T]]:
    """Join consecutive members into samples.

    A key that comes again, or an extension that the sample has already, begins another sample. Groups
    without image or label are not samples and are left out; ``photo.v2.jpg`` makes one (key ``photo``)
    that lacks an image, so that it is reported rather than lost.
    """
    current: Group[T] | None = None
    for name, value in members:
        key, extension = base_plus_ext(name)
        if key is None or _META.match(name):
            continue
        extension = extension.lower()
        if current is None or key != current.key or extension in current.members:
            if current is not None and _is_sample(current):
                yield current
            current = Group(key, {})
        current.members[extension] = value
    if current is not None and _is_sample(current):
        yield current


def key_of(name: str) -> str:
    """The key of a file by WebDataset's rule; its name itself where it has no extension."""
    return base_plus_ext(name)[0] or name


def _is_sample(candidate: Group[Any]) -> bool:
    return any(ext == LABEL or ext.rpartition(".")[2] in IMAGES for ext in candidate.members)


def read(shard: ShardRecord) -> Iterator[Group[bytes]]:
    """Samples of a tar with the bytes of their members. Nothing is decoded here.

    Raises:
        BadTar: it cannot be read to its end, or does not hold as many samples as were planned.
    """
    count = 0
    try:
        with _open(shard.url) as stream:
            source = partial(iter, [{"url": shard.url, "stream": stream}])
            files = webdataset.DataPipeline(source, _expand)
            for sample in group((file["fname"], file["data"]) for file in files):
                count += 1
                if count > shard.samples:
                    break
                yield sample
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadTar(f"{shard.url}: cannot be read past sample {count}: {_reason(error)}") from error
    if count != shard.samples:
        more = "more" if count > shard.samples else f"only {count}"
        raise BadTar(f"{shard.url}: {shard.samples} samples were planned, but it holds {more}: plan again")


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
    count, size = 0, -1
    try:
        with _open(url) as stream:
            seekable = not url.startswith("pipe:")
            if seekable:
                size = stream.seek(0, io.SEEK_END)
                stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:*" if seekable else "r|*") as archive:
                names = ((member.name, None) for member in archive if member.isreg())
                count = sum(1 for _ in group(names))
                compressed = archive.fileobj is not stream
                problem = None if compressed or not seekable else _ending(stream, archive.offset, size)
    except (tarfile.TarError, EOFError, OSError) as error:
        problem = _reason(error)
    if problem is None and count == 0:
        problem = "it holds no samples"
    return Scan(count, size, problem)


def _ending(stream: IO[bytes], offset: int, size: int) -> str | None:
    """What is wrong where the headers end. Python's tarfile takes a broken header for the end, silently."""
    stream.seek(offset)
    block = stream.read(_BLOCK)
    if not block:
        return f"it is truncated: it ends at byte {size} without the mark of its end"
    if block.strip(b"\0"):
        return f"its header at byte {offset} is broken"
    if size - offset > _SLACK:
        return f"{size - offset} bytes follow the mark of its end at byte {offset}"
    return None


def _reason(error: Exception) -> str:
    return {"empty file": "it is empty", "unexpected end of data": "it is truncated"}.get(str(error), str(error))


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
