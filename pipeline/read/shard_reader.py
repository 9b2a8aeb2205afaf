"""Samples of one shard: scanned by the headers of its tar, or read with their contents.

Scanning and reading share ``group_by_key``, so that a plan counts exactly the samples that a run reads. As in
WebDataset, the members of a sample share a key and follow one another.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from pipeline.read.byte_stream import CorruptTarError, TruncatedTarError, describe_source, open_byte_stream
from pipeline.read.listing import Listing
from pipeline.read.sample_keys import split_name
from pipeline.read.tar_members import TarMember, iter_tar_members
from schemas.errors import CorruptShardError
from schemas.run import ShardRecord, SourceRecord

IMAGE_EXTENSIONS = ("jpg", "jpeg", "jfif", "png", "webp", "ppm", "bmp")
"""Extensions of images, by priority if a sample has several."""
LABEL_EXTENSION = "cls"
_UNSUPPORTED_IMAGES = ("gif", "tif", "tiff", "avif", "heic", "jp2")  # reported as samples without a usable image

MAX_IMAGE_BYTES = 256_000_000
"""A larger image is not read: its sample is undecodable."""

_MAX_BYTES = dict.fromkeys(IMAGE_EXTENSIONS, MAX_IMAGE_BYTES) | {LABEL_EXTENSION: 1024}
"""Largest size of the members that are read, by extension; others are not read."""
_MAX_EMPTY = 1 << 20
"""Largest tar without members, in bytes; more zeros are a file that was never written."""
_META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True)
class SampleMember:
    """A file of a sample.

    Attributes:
        name: in the shard.
        size: in bytes.
        data: its contents; None if they were not read, because they are not needed or too large.
    """

    name: str
    size: int
    data: bytes | None


@dataclass(frozen=True)
class RawSample:
    """Key and undecoded members of one sample, by lower-case extension."""

    key: str
    members: dict[str, SampleMember]

    def image(self) -> SampleMember | None:
        """Return the image member, if there is one."""
        return next((self.members[extension] for extension in IMAGE_EXTENSIONS if extension in self.members), None)


def group_by_key(members: Iterable[TarMember], load: bool) -> Iterator[RawSample]:
    """Group consecutive files into samples.

    A key that comes again later, or an extension that the sample already has, begins another sample. Groups without
    image or label are not samples and are left out; ``photo.v2.jpg`` makes one (key ``photo``) without an image, so
    that it is reported rather than lost.

    A sample is yielded as soon as the name of the next is known, before anything more is read: the samples before a
    fault are then the same whether contents are read or not.

    Args:
        members: files of a tar, in their order.
        load: read the contents of images and labels.
    """
    current: RawSample | None = None
    for member in members:
        key, extension = split_name(member.name)
        if not key or _META.match(member.name) or member.name.rpartition("/")[2].startswith("."):
            continue  # hidden files, such as those that macOS puts beside each file
        extension = extension.lower()
        if current is None or key != current.key or extension in current.members:
            if current is not None and _is_sample(current):
                yield current
            current = RawSample(key, {})
        data = member.read() if load and member.size <= _MAX_BYTES.get(extension, -1) else None
        current.members[extension] = SampleMember(member.name, member.size, data)
    if current is not None and _is_sample(current):
        yield current


def _is_sample(group: RawSample) -> bool:
    images = (*IMAGE_EXTENSIONS, *_UNSUPPORTED_IMAGES)
    return any(ext == LABEL_EXTENSION or ext.rpartition(".")[2] in images for ext in group.members)


def read_samples(
    shard: ShardRecord, max_samples: int, on_source: Callable[[SourceRecord], None] = lambda source: None
) -> Iterator[RawSample]:
    """Read the samples of a shard with the bytes of their images and labels. Nothing is decoded.

    A local shard is scanned first, so that a corrupt one yields nothing, even if the fault is behind its last sample.
    A shard that was corrupt when it was planned and is whole now may hold up to ``max_samples`` samples. Of a shard
    that is kept up to its fault, exactly the planned samples are read.

    Args:
        shard: as planned.
        max_samples: rows that the shard owns in the atlas.
        on_source: called at the end with the file that was read.

    Raises:
        CorruptShardError: it cannot be read to its end, is not the file that was planned, or does not hold as many
            samples as were planned.
        OSError: it cannot be reached, which may pass.
    """
    if _is_local(shard.url):
        scanned = scan_shard(shard.url)
        if scanned.fault and not shard.partial:
            raise CorruptShardError(f"{shard.url}: {scanned.fault}")
        check_source(shard, scanned.source)
        _check_count(shard, min(scanned.samples, shard.samples) if shard.partial else scanned.samples, max_samples)
    count, listing = 0, Listing()
    try:
        source = describe_source(shard.url)
        check_source(shard, source)
        with open_byte_stream(shard.url) as stream:
            samples = group_by_key(iter_tar_members(stream, listing), load=True)
            for sample in islice(samples, shard.samples if shard.partial else None):
                count += 1
                if count <= max_samples:
                    yield sample
    except CorruptTarError as error:
        raise CorruptShardError(f"{shard.url}: cannot be read past sample {count}: {error}") from error
    _check_count(shard, count, max_samples)
    if not shard.partial:  # of which not all is read
        source = source.model_copy(update={"listing": listing.digest()})
        check_source(shard, source)
    on_source(source)


def check_source(shard: ShardRecord, source: SourceRecord) -> None:
    """Make sure that a file is the one that was planned.

    Args:
        shard: as planned.
        source: the file as it is now.

    Raises:
        CorruptShardError: it is another one.
    """
    if changes := shard.source.changes(source):
        raise CorruptShardError(
            f"{shard.url}: is not the file that was planned: {', '.join(changes)}; restore it, or plan another atlas"
        )


def _check_count(shard: ShardRecord, count: int, max_samples: int) -> None:
    planned = shard.partial or not shard.fault
    if planned and count != shard.samples:
        raise CorruptShardError(
            f"{shard.url}: {shard.samples} samples were planned, it holds {count}; restore it, or plan another atlas"
        )
    if count > max_samples:
        raise CorruptShardError(
            f"{shard.url}: it holds {count} samples, but the atlas has room for {max_samples}; plan another atlas"
        )


@dataclass(frozen=True)
class ShardScan:
    """Result of a scan.

    Attributes:
        samples: of a corrupt shard, those that are surely whole: before the fault, without the last. A compressed one
            has none, unless it is merely truncated: its checksum does not tell where the fault is.
        size: in bytes, −1 if unknown.
        fault: fault of the shard, if it has one.
        fingerprint: as in ``SourceRecord``.
        listing: as in ``SourceRecord``.
    """

    samples: int
    size: int
    fault: str | None
    fingerprint: str | None = None
    listing: str | None = None

    @property
    def source(self) -> SourceRecord:
        """The file that was scanned."""
        return SourceRecord(size=self.size, fingerprint=self.fingerprint, listing=self.listing)


def scan_shard(url: str) -> ShardScan:
    """Count the samples of a shard by its headers; the contents are skipped.

    A fault of the shard is returned, not raised.

    Raises:
        OSError: it cannot be reached, which may pass.
    """
    count, size, compressed, fingerprint, listing = 0, -1, False, None, Listing()
    try:
        fingerprint = describe_source(url).fingerprint
        with open_byte_stream(url) as stream:
            size, compressed = stream.size, stream.compressed
            for _ in group_by_key(iter_tar_members(stream, listing), load=False):
                count += 1
            is_empty = not listing.count and stream.position <= _MAX_EMPTY
    except CorruptTarError as error:
        samples = 0 if compressed and not isinstance(error, TruncatedTarError) else count
        return ShardScan(samples, size, str(error), fingerprint, listing.digest())
    fault = None if count or is_empty else "it holds no samples"
    return ShardScan(count, size, fault, fingerprint, listing.digest())


def read_listing(url: str) -> str | None:
    """Return the listing of a tar from its headers, up to its fault if it has one; None if it is compressed.

    Raises:
        OSError: it cannot be reached, which may pass.
    """
    listing = Listing()
    with suppress(CorruptTarError), open_byte_stream(url) as stream:
        if stream.compressed:
            return None
        for _ in iter_tar_members(stream, listing):
            pass
    return listing.digest()


def _is_local(url: str) -> bool:
    return "://" not in url and not url.startswith("pipe:")
