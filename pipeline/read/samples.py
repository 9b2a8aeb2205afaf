"""Samples of one shard: how members make a sample, scanned by their headers or read in full.

Scanning and reading share ``group``, so that a plan counts exactly what a run will read. A sample is named
by WebDataset's rule: its key is the path up to the first dot of the file name, its members follow one
another.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from pipeline.read.byte_stream import Cut, Damage, opened
from pipeline.read.tar_members import Entry, entries
from schemas.errors import CorruptShardError
from schemas.run import ShardRecord

IMAGES = ("jpg", "jpeg", "jfif", "png", "webp", "ppm", "bmp")
"""Extensions of images, in the order in which one is taken where a sample has several."""
LABEL = "cls"
_OTHER_IMAGES = ("gif", "tif", "tiff", "avif", "heic", "jp2")  # not read, but not lost either

MAX_BYTES = 256_000_000
"""A larger image is not read: its sample is undecodable."""

_LIMITS = dict.fromkeys(IMAGES, MAX_BYTES) | {LABEL: 1024}
"""Bytes of the members that are read, by extension; no others are."""
_META = re.compile(r"__[^/]*__($|/)")
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)$")


@dataclass(frozen=True)
class Member:
    """A file of a sample.

    Attributes:
        name: in the shard.
        size: in bytes.
        data: its contents; None where they were not read, since nobody needs them or they are too large.
    """

    name: str
    size: int
    data: bytes | None


@dataclass(frozen=True)
class Group:
    """Members of one sample by lower-cased extension."""

    key: str
    members: dict[str, Member]

    def image(self) -> Member | None:
        """The image member, if there is one."""
        return next((self.members[extension] for extension in IMAGES if extension in self.members), None)


def group(files: Iterable[Entry], load: bool) -> Iterator[Group]:
    """Join consecutive files into samples.

    A key that comes again, or an extension that the sample has already, begins another sample. Groups
    without image or label are not samples and are left out; ``photo.v2.jpg`` makes one (key ``photo``)
    that lacks an image, so that it is reported rather than lost.

    A sample is given out as soon as the name of the next is known, before anything more is read: what is in
    front of a damage is then the same whether contents are read or not.

    Args:
        load: read what is needed of the contents.
    """
    current: Group | None = None
    for entry in files:
        key, extension = split(entry.name)
        if not key or _META.match(entry.name) or entry.name.rpartition("/")[2].startswith("."):
            continue  # hidden files, such as those that macOS puts beside each file
        extension = extension.lower()
        if current is None or key != current.key or extension in current.members:
            if current is not None and _is_sample(current):
                yield current
            current = Group(key, {})
        data = entry.read() if load and entry.size <= _LIMITS.get(extension, -1) else None
        current.members[extension] = Member(entry.name, entry.size, data)
    if current is not None and _is_sample(current):
        yield current


def split(name: str) -> tuple[str, str]:
    """Key and extension of a file by WebDataset's rule, which is written out since that package brings torch.

    Both are empty where the name has no extension.
    """
    found = _NAME.match(name)
    return (found[1], found[2]) if found else ("", "")


def key_of(name: str) -> str:
    """The key of a file by WebDataset's rule, without a leading ``./``; its name where it has no extension."""
    return (split(name)[0] or name).removeprefix("./")


def _is_sample(candidate: Group) -> bool:
    return any(ext == LABEL or ext.rpartition(".")[2] in (*IMAGES, *_OTHER_IMAGES) for ext in candidate.members)


def read(shard: ShardRecord, room: int) -> Iterator[Group]:
    """Samples of a shard with the bytes of their images and labels. Nothing is decoded here.

    A shard on a local disk is scanned first, so that one that is damaged, even behind its last sample, yields
    nothing. One that was damaged when it was planned and is whole now may hold any number of samples that
    there is room for. Of one that is kept as far as it is good, just the planned samples are read.

    Args:
        room: rows that the shard owns.

    Raises:
        CorruptShardError: it cannot be read to its end, or does not hold as many samples as were planned.
        OSError: it cannot be reached, which may pass.
    """
    if _is_local(shard.url):
        found = scan(shard.url)
        if found.fault and not shard.partial:
            raise CorruptShardError(f"{shard.url}: {found.fault}")
        _compare(shard, min(found.samples, shard.samples) if shard.partial else found.samples, room)
    count = 0
    try:
        with opened(shard.url) as stream:
            for sample in islice(group(entries(stream), load=True), shard.samples if shard.partial else None):
                count += 1
                if count <= room:
                    yield sample
    except Damage as damage:
        raise CorruptShardError(f"{shard.url}: cannot be read past sample {count}: {damage}") from damage
    _compare(shard, count, room)


def _compare(shard: ShardRecord, count: int, room: int) -> None:
    planned = shard.partial or not shard.fault
    if planned and count != shard.samples:
        raise CorruptShardError(
            f"{shard.url}: {shard.samples} samples were planned, it holds {count}; restore it, or plan another atlas"
        )
    if count > room:
        raise CorruptShardError(f"{shard.url}: it holds {count} samples, but has room for {room}; plan another atlas")


@dataclass(frozen=True)
class Scan:
    """What the headers of a shard say.

    Attributes:
        samples: of a shard that is damaged, those that are surely whole: in front of the damage, but for the
            last. None of a compressed one, unless it is merely cut off: its checksum says that something is
            wrong, but not where.
        size: in bytes, −1 where that is not known.
        fault: what is wrong with it.
    """

    samples: int
    size: int
    fault: str | None


def scan(url: str) -> Scan:
    """Count the samples of a shard by its headers; the contents are skipped over.

    Never raises for what is wrong with a shard: that is returned.

    Raises:
        OSError: it cannot be reached, which may pass.
    """
    count, size, packed = 0, -1, False
    try:
        with opened(url) as stream:
            size, packed = stream.size, stream.packed
            for _ in group(entries(stream), load=False):
                count += 1
    except Damage as damage:
        return Scan(0 if packed and not isinstance(damage, Cut) else count, size, str(damage))
    return Scan(count, size, None if count else "it holds no samples")


def _is_local(url: str) -> bool:
    return "://" not in url and not url.startswith("pipe:")
