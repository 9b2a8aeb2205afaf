"""Headers of a tar, one after another: what is in it, and where it is broken.

Python's own ``TarFile`` takes a broken header for the end, follows sizes that are negative, and holds as much in
memory as a header asks for; here each header is checked before it is followed.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.read.byte_stream import Cut, Damage, Stream

MAX_EXTENDED = 1 << 20
"""Bytes of a long name or of a pax header."""

_BLOCK = 512
_PAX = re.compile(rb"([0-9]{1,9}) ")
_DATALESS = (tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)


@dataclass(frozen=True)
class Entry:
    """A regular file of a tar, whose contents come next in the stream."""

    name: str
    size: int
    stream: Stream

    def read(self) -> bytes:
        """Its contents, once, before the next entry is asked for."""
        data = self.stream.read(self.size)
        if len(data) < self.size:
            raise Cut("it is truncated")
        return data


def entries(stream: Stream) -> Iterator[Entry]:
    """Regular files of a tar; contents that nobody reads are skipped. Links, folders and devices are left out.

    Raises:
        Damage: it is not a tar, or not a whole one, or holds a file whose contents are elsewhere.
        OSError: see ``Stream``.
    """
    extended: dict[str, str] = {}
    while True:
        start = stream.position
        header = _header(stream)
        if header is None:
            if extended:
                raise Damage(f"its header at byte {start} is broken")
            _padding(stream, start)
            return
        size = int(extended["size"]) if "size" in extended else header.size
        name = extended.get("path", header.name)
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            content = _content(stream, header.size, start).partition(b"\0")[0]
            if header.type == tarfile.GNUTYPE_LONGNAME:
                extended = {"path": _text(content)} | extended
            continue
        if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended = _pax(_content(stream, header.size, start), start) | extended
            continue
        if header.type == tarfile.LNKTYPE:
            raise Damage(f"{name} is a hard link, whose contents a stream cannot find; pack it with --hard-dereference")
        if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in extended):
            raise Damage(f"{name} is a sparse file; pack it without --sparse")
        end = stream.position + (0 if header.type in _DATALESS else _padded(size))
        if header.isreg():
            yield Entry(name, size, stream)
        stream.skip(end - stream.position)
        if header.type != tarfile.XGLTYPE:
            extended = {}


def _header(stream: Stream) -> tarfile.TarInfo | None:
    """The next header, or None where the end is marked."""
    start = stream.position
    block = stream.read(_BLOCK)
    if not block:
        if start == 0:
            raise Cut("it is empty")
        raise Cut(f"it is truncated: it ends at byte {start} without the mark of its end")
    if len(block) == _BLOCK and not block.strip(b"\0"):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        if start == 0:
            raise Damage("it is not a tar") from None
        if len(block) < _BLOCK:
            raise Cut("it is truncated") from None
        raise Damage(f"its header at byte {start} is broken") from None
    if header.size < 0:
        raise Damage(f"its header at byte {start} is broken")
    return header


def _padding(stream: Stream, start: int) -> None:
    """Read to the very end, which also makes a packed stream compare its checksum."""
    while block := stream.read(1 << 20):
        if block.strip(b"\0"):
            raise Damage(f"something follows the mark of its end at byte {start}")


def _content(stream: Stream, size: int, start: int) -> bytes:
    """Contents of an extended header."""
    if size > MAX_EXTENDED:
        raise Damage(f"its header at byte {start} asks for {size:,} bytes, more than {MAX_EXTENDED:,}")
    data = stream.read(_padded(size))
    if len(data) < _padded(size):
        raise Cut("it is truncated")
    return data[:size]


def _pax(content: bytes, start: int) -> dict[str, str]:
    """Records of a pax header, each ``LENGTH KEY=VALUE`` and a newline."""
    records: dict[str, str] = {}
    position = 0
    while position < len(content) and content[position]:  # some fill up with zeros
        length = _PAX.match(content, position)
        end = position + int(length[1]) if length else 0
        record = content[length.end() : end] if length else b""
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or end > len(content):
            raise Damage(f"its header at byte {start} is broken")
        records[_text(key)] = _text(value[:-1])
        position = end
    if not re.fullmatch("[0-9]{1,18}", records.get("size", "0")):
        raise Damage(f"its header at byte {start} is broken")
    return records


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
