"""Samples of one shard: scanned by the headers of its tar, or read with their contents.

Scanning and reading share ``group_by_key``, so that a plan counts exactly the samples that a run reads. As in
WebDataset, the members of a sample share a key and follow one another.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from pipeline.read.byte_stream import CorruptTarError, TruncatedTarError, describe_source, open_byte_stream
from pipeline.read.decode import is_image_start
from pipeline.read.listing import Listing
from pipeline.read.sample_keys import escape_bytes, split_name
from pipeline.read.tar_members import TarMember, iter_tar_members
from schemas.errors import CorruptShardError
from schemas.run import Grouping
from schemas.shard_record import ShardRecord, SourceRecord

IMAGE_EXTENSIONS = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "ppm", "pgm", "pbm", "pnm", "bmp", "dib"),
    *("gif", "tif", "tiff", "avif", "heic", "heif", "jp2", "j2k", "jpx", "jxl", "svg", "ico", "tga", "psd", "exr"),
    *("dng", "nef", "cr2", "arw"),
)
"""Extensions of images. What cannot be decoded is a sample all the same, and says so."""
LABEL_EXTENSION = "cls"

MAX_IMAGE_BYTES = 256_000_000
"""A larger image is not read: its sample is undecodable."""
_MAX_LABEL_BYTES = 1 << 17
"""As many as a 0 or 1 for each class takes, of 21,841."""
TEXT_EXTENSIONS = {"txt": 1 << 16, "json": 1 << 20}
"""Extensions of members with texts, as img2dataset writes them, and the largest that is read, in bytes."""

_MAX_EMPTY = 1 << 20
"""Largest tar without members, in bytes; more zeros are a file that was never written."""
_IMAGE_NAME = re.compile(rf"(?:.*\.)?(?:{'|'.join(IMAGE_EXTENSIONS)})(?:\.(?:gz|bz2|xz|zst))?", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_LISTED = 8
"""Names or extensions that a message lists."""


class UngroupableTarError(CorruptTarError):
    """An intact tar whose members cannot be told apart as samples; the message names the option that decides."""


@dataclass(frozen=True)
class SampleMember:
    """A file of a sample.

    Attributes:
        name: in the shard.
        size: in bytes.
        data: its contents; None if they were not read, because they are not needed or too large.
        fault: why it has no contents, if it is a link or a device.
        is_image: by its name or its first bytes.
    """

    name: str
    size: int
    data: bytes | None
    fault: str | None = None
    is_image: bool = False


@dataclass(frozen=True)
class RawSample:
    """Undecoded members of one sample.

    Attributes:
        key: of the sample.
        members: by lower-case extension.
        image_extension: of its image; None if it has none.
        duplicate_of: position of the first sample of the shard with the same key; None if this is the first.
    """

    key: str
    members: dict[str, SampleMember]
    image_extension: str | None = None
    duplicate_of: int | None = None

    def image(self) -> SampleMember | None:
        """Return the image member, if there is one."""
        return None if self.image_extension is None else self.members[self.image_extension]

    def has_label(self) -> bool:
        """Return whether there is a label member that is not empty."""
        label = self.members.get(LABEL_EXTENSION)
        return label is not None and (label.size > 0 or label.fault is not None)


def group_by_key(
    members: Iterable[TarMember],
    load: bool,
    grouping: Grouping = Grouping(),
    left_out: Counter[str] | None = None,
    texts: Collection[str] = (),
) -> Iterator[RawSample]:
    """Group consecutive files into samples.

    An extension that the sample already has begins another sample. Groups without image or label are not samples and
    are left out; ``photo.v2.jpg`` makes one (key ``photo``) without an image, so that it is reported rather than lost.

    A sample is yielded as soon as the name of the next is known, before anything more is read: the samples before a
    fault are then the same whether contents are read or not. Memory: the key of each sample, about 200 bytes.

    Args:
        members: files of a tar, in their order.
        load: read the contents of images and labels.
        grouping: rule of keys and images.
        left_out: counts the files of no sample, by extension.
        texts: extensions of ``TEXT_EXTENSIONS`` whose contents are loaded, too.

    Raises:
        UngroupableTarError: a sample has several images; or the members of a sample are not consecutive.
    """
    groups = _Groups(grouping, Counter() if left_out is None else left_out)
    limits = {LABEL_EXTENSION: _MAX_LABEL_BYTES} | {extension: TEXT_EXTENSIONS[extension] for extension in texts}
    key, current = "", dict[str, SampleMember]()
    for member in members:
        member_key, extension = split_name(member.name, grouping.key_separator)
        base = member.name.rpartition("/")[2]
        if base.startswith(".") or _META.match(member.name):  # such as those that macOS puts beside each file
            groups.left_out["hidden"] += 1
            continue
        extension = extension.lower()
        is_image = extension in grouping.image_key or _is_image(member, extension)
        if not member_key:
            if not is_image:
                groups.left_out["no extension"] += 1
                continue
            member_key, extension = member.name, ""
        if member_key != key or extension in current:
            if sample := groups.close(key, current):
                yield sample
            key, current = member_key, {}
        may_be_chosen = extension in grouping.image_key if grouping.image_key else is_image and "." not in extension
        limit = MAX_IMAGE_BYTES if may_be_chosen else limits.get(extension, -1)
        data = member.read() if load and member.fault is None and member.size <= limit else None
        current[extension] = SampleMember(member.name, member.size, data, member.fault, is_image)
    if sample := groups.close(key, current):
        yield sample


def _is_image(member: TarMember, extension: str) -> bool:
    """Return whether a file is an image by its name or, unless it is a label, by its first bytes."""
    if _IMAGE_NAME.fullmatch(extension):
        return True
    return extension != LABEL_EXTENSION and member.fault is None and is_image_start(member.head())


@dataclass
class _Groups:
    """What the groups of a shard have in common.

    Attributes:
        grouping: rule of keys and images.
        left_out: number of files of no sample, by extension.
        first: position and extensions of the first sample of each key.
        count: of samples.
    """

    grouping: Grouping
    left_out: Counter[str]
    first: dict[str, tuple[int, frozenset[str]]] = field(default_factory=dict)
    count: int = 0
    _shared: dict[frozenset[str], frozenset[str]] = field(default_factory=dict)

    def close(self, key: str, members: dict[str, SampleMember]) -> RawSample | None:
        """Make a sample of a complete group, if it is one.

        Raises:
            UngroupableTarError: see ``group_by_key``.
        """
        images = [extension for extension, member in members.items() if member.is_image]
        if not images and LABEL_EXTENSION not in members:
            self.left_out.update(extension.rpartition(".")[2] for extension in members)
            return None
        image = self._choose_image(key, members, images)
        extensions = frozenset(members)
        ordinal, earlier = self.first.setdefault(
            key,
            (self.count, self._shared.setdefault(extensions, extensions)),  # most samples have the same
        )
        if not earlier & extensions:
            raise UngroupableTarError(self._describe_scatter(key, members, earlier))
        self.count += 1
        return RawSample(key, members, image, ordinal if ordinal < self.count - 1 else None)

    def _choose_image(self, key: str, members: dict[str, SampleMember], images: list[str]) -> str | None:
        """Return the extension of the image; None if the sample has none."""
        if self.grouping.image_key:
            return next((extension for extension in self.grouping.image_key if extension in members), None)
        named = [extension for extension in images if _IMAGE_NAME.fullmatch(extension)]
        found = named or images  # a file that only its contents tell, beside one that its name tells, is a thumbnail
        if len(found) > 1:
            names = _join([members[extension].name for extension in found])
            raise UngroupableTarError(
                f"sample {key} has {len(found)} images ({names}); {_dots_fix(found)}"
                f"choose the image by --image-key {found[0][:50]}"
            )
        return found[0] if found and "." not in found[0] else None

    def _describe_scatter(self, key: str, members: dict[str, SampleMember], earlier: frozenset[str]) -> str:
        names = _join([member.name for member in members.values()])
        others = _join([f"{key}.{extension}" for extension in sorted(earlier)])
        fix = f"{_dots_fix((*members, *earlier))}pack it sorted, by tar --sort=name"
        return f"{names} is not next to {others}, though both are of sample {key}; {fix}"


def _dots_fix(extensions: Iterable[str]) -> str:
    """Return the fix for samples that the rule of keys has merged, if extensions with dots show that it may have."""
    if not any("." in extension for extension in extensions):
        return ""
    return "end keys at the last dot by --key-separator last-dot, or, if they are of one sample, "


def _join(names: list[str]) -> str:
    listed = ", ".join(name[:100] for name in names[:_LISTED])
    return listed if len(names) <= _LISTED else f"{listed} and {len(names) - _LISTED} more"


def read_samples(
    shard: ShardRecord,
    max_samples: int,
    grouping: Grouping = Grouping(),
    on_source: Callable[[SourceRecord], None] = lambda source: None,
    texts: Collection[str] = (),
) -> Iterator[RawSample]:
    """Read the samples of a shard with the bytes of their images and labels. Nothing is decoded.

    A local shard is scanned first, so that a corrupt one yields nothing, even if the fault is behind its last sample.
    A shard that was corrupt when it was planned and is whole now may hold up to ``max_samples`` samples. Of a shard
    that is kept up to its fault, exactly the planned samples are read.

    Args:
        shard: as planned.
        max_samples: rows that the shard owns in the atlas.
        grouping: rule of keys and images.
        on_source: called at the end with the file that was read.
        texts: see ``group_by_key``.

    Raises:
        CorruptShardError: it cannot be read to its end, is not the file that was planned, or does not hold as many
            samples as were planned.
        OSError: it cannot be reached, which may pass.
    """
    if _is_local(shard.url):
        scanned = scan_shard(shard.url, grouping)
        if scanned.fault and not shard.partial:
            raise CorruptShardError(f"{shard.url}: {scanned.fault}")
        check_source(shard, scanned.source)
        _check_count(shard, min(scanned.samples, shard.samples) if shard.partial else scanned.samples, max_samples)
    count, listing = 0, Listing()
    try:
        source = describe_source(shard.url)
        check_source(shard, source)
        with open_byte_stream(shard.url) as stream:
            members = iter_tar_members(stream, listing)
            samples = group_by_key(members, load=True, grouping=grouping, texts=texts)
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
            f"{shard.url}: {shard.samples} samples were planned, it holds {count}; restore it, or plan another atlas, "
            "without the _info.json beside it if that has another number"
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
            has none, unless it is merely truncated: its checksum does not tell where the fault is. One whose samples
            cannot be told apart has none either.
        size: in bytes, −1 if unknown.
        fault: fault of the shard, if it has one.
        fingerprint: as in ``SourceRecord``.
        listing: as in ``SourceRecord``.
        left_out: number and extensions of the files that belong to no sample, in words.
        unlabelled: samples without a label member.
    """

    samples: int
    size: int
    fault: str | None
    fingerprint: str | None = None
    listing: str | None = None
    left_out: str | None = None
    unlabelled: int = 0

    @property
    def source(self) -> SourceRecord:
        """The file that was scanned."""
        return SourceRecord(size=self.size, fingerprint=self.fingerprint, listing=self.listing)


def scan_shard(url: str, grouping: Grouping = Grouping()) -> ShardScan:
    """Count the samples of a shard by its headers; the contents are skipped.

    A fault of the shard is returned, not raised.

    Args:
        url: of the shard.
        grouping: rule of keys and images.

    Raises:
        OSError: it cannot be reached, which may pass.
    """
    count, unlabelled, size, compressed, fingerprint, listing = 0, 0, -1, False, None, Listing()
    left_out: Counter[str] = Counter()
    try:
        fingerprint = describe_source(url).fingerprint
        with open_byte_stream(url) as stream:
            size, compressed = stream.size, stream.compressed
            members = iter_tar_members(stream, listing)
            for sample in group_by_key(members, load=False, grouping=grouping, left_out=left_out):
                count += 1
                unlabelled += not sample.has_label()
            is_empty = not listing.count and stream.position <= _MAX_EMPTY
    except UngroupableTarError as error:
        return ShardScan(0, size, str(error), fingerprint)
    except CorruptTarError as error:
        samples = 0 if compressed and not isinstance(error, TruncatedTarError) else count
        return ShardScan(samples, size, str(error), fingerprint, listing.digest(), None, min(unlabelled, samples))
    files, fault = _describe_left_out(left_out), None
    if not count and not is_empty:
        fault = f"it holds no samples; {files}" if files else "it holds no samples"
    return ShardScan(count, size, fault, fingerprint, listing.digest(), files, unlabelled)


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


def _describe_left_out(counts: Counter[str]) -> str | None:
    if not counts:
        return None
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return f"files of no sample: {_join([f'{count:,} {escape_bytes(name)}' for name, count in by_count])}"


def _is_local(url: str) -> bool:
    return "://" not in url and not url.startswith("pipe:")
