"""Members of a tar from its headers, each checked before it is followed.

Python's own ``TarFile`` takes a broken header for the end, follows negative sizes, and allocates as much memory as a
header asks for.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.read.byte_stream import ByteStream, CorruptTarError, TruncatedTarError
from pipeline.read.listing import Listing

MAX_EXTENDED = 1 << 20
"""Largest long name or pax header, in bytes."""

_BLOCK = 512
_PAX = re.compile(rb"([0-9]{1,9}) ")
_LINK_TYPES = {tarfile.SYMTYPE: "symbolic link", tarfile.LNKTYPE: "hard link"}
_LINK_FLAGS = {tarfile.SYMTYPE: "--dereference", tarfile.LNKTYPE: "--hard-dereference"}
_WITHOUT_DATA = (*_LINK_TYPES, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
_HEAD = 64
"""First bytes of a member that ``TarMember.head`` returns."""


@dataclass
class TarMember:
    """A file of a tar, whose contents come next in the stream.

    Attributes:
        name: in the tar.
        size: of the contents, in bytes.
        stream: positioned at the contents.
        fault: why it has no contents, if it is a link or a device.
    """

    name: str
    size: int
    stream: ByteStream
    fault: str | None = None
    _start: bytes = b""

    def head(self) -> bytes:
        """Return the first 64 bytes of its contents, or all; before ``read``."""
        if not self._start and self.size:
            self._start = self._read(min(self.size, _HEAD))
        return self._start

    def read(self) -> bytes:
        """Return its contents; once, before the next member is requested."""
        return self._start + self._read(self.size - len(self._start))

    def _read(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) < count:
            raise TruncatedTarError("it is truncated")
        return data


def iter_tar_members(stream: ByteStream, listing: Listing | None = None) -> Iterator[TarMember]:
    """Iterate over the files of a tar; contents that are not read are skipped.

    Links and devices have a fault instead of contents, and are never followed. Folders are left out.

    Args:
        stream: the tar.
        listing: gets all members but folders.

    Raises:
        CorruptTarError: it is not a tar, is truncated or broken, or holds a sparse file.
        OSError: see ``ByteStream``.
    """
    extended: dict[str, str] = {}
    while True:
        start = stream.position
        header = _read_header(stream)
        if header is None:
            if extended:
                raise CorruptTarError(f"its header at byte {start} is broken")
            _check_padding(stream, start)
            return
        size = int(extended["size"]) if "size" in extended else header.size
        name = extended.get("path", header.name)
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            content = _read_extended(stream, header.size, start).partition(b"\0")[0]
            field = "path" if header.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
            extended = {field: _to_text(content)} | extended
            continue
        if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended = _parse_pax(_read_extended(stream, header.size, start), start) | extended
            continue
        if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in extended):
            raise CorruptTarError(f"{name} is a sparse file; pack it without --sparse")
        end = stream.position + (0 if header.type in _WITHOUT_DATA else _padded(size))
        if listing and header.type not in (tarfile.DIRTYPE, tarfile.XGLTYPE):
            listing.add(name, size)
        if header.isreg():
            yield TarMember(name, size, stream)
        elif header.type in _LINK_TYPES:
            target = extended.get("linkpath", header.linkname)
            yield TarMember(name, 0, stream, _link_fault(header.type, target))
        elif header.type not in (tarfile.DIRTYPE, tarfile.XGLTYPE):
            yield TarMember(name, 0, stream, "is no file, but a device or of an unknown kind; pack its contents")
        stream.skip(end - stream.position)
        if header.type != tarfile.XGLTYPE:
            extended = {}


def _link_fault(kind: bytes, target: str) -> str:
    return f"is a {_LINK_TYPES[kind]} to {target[:200]}, which is not followed; pack it with tar {_LINK_FLAGS[kind]}"


def _read_header(stream: ByteStream) -> tarfile.TarInfo | None:
    """Return the next header, or None at the end mark."""
    start = stream.position
    block = stream.read(_BLOCK)
    if not block:
        if start == 0:
            raise TruncatedTarError("it is empty")
        raise TruncatedTarError(f"it is truncated: it ends at byte {start} without an end mark")
    if len(block) == _BLOCK and not block.strip(b"\0"):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        if start == 0:
            raise CorruptTarError("it is not a tar") from None
        if len(block) < _BLOCK:
            raise TruncatedTarError("it is truncated") from None
        raise CorruptTarError(f"its header at byte {start} is broken") from None
    if header.size < 0:
        raise CorruptTarError(f"its header at byte {start} is broken")
    return header


def _check_padding(stream: ByteStream, start: int) -> None:
    """Read to the very end, which also makes a decompressor compare its checksum."""
    while block := stream.read(1 << 20):
        if block.strip(b"\0"):
            raise CorruptTarError(
                f"data follows its end mark at byte {start}; join tars by tar --concatenate, or name each as a shard"
            )


def _read_extended(stream: ByteStream, size: int, start: int) -> bytes:
    """Return the contents of an extended header."""
    if size > MAX_EXTENDED:
        raise CorruptTarError(f"its header at byte {start} asks for {size:,} bytes, more than {MAX_EXTENDED:,}")
    data = stream.read(_padded(size))
    if len(data) < _padded(size):
        raise TruncatedTarError("it is truncated")
    return data[:size]


def _parse_pax(content: bytes, start: int) -> dict[str, str]:
    """Parse the records of a pax header, each ``LENGTH KEY=VALUE`` and a newline."""
    records: dict[str, str] = {}
    position = 0
    while position < len(content) and content[position]:  # some writers pad with zeros
        length = _PAX.match(content, position)
        end = position + int(length[1]) if length else 0
        record = content[length.end() : end] if length else b""
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or end > len(content):
            raise CorruptTarError(f"its header at byte {start} is broken")
        records[_to_text(key)] = _to_text(value[:-1])
        position = end
    if not re.fullmatch("[0-9]{1,18}", records.get("size", "0")):
        raise CorruptTarError(f"its header at byte {start} is broken")
    return records


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _to_text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
