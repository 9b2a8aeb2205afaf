"""Files of a Debian package, and of the Qt resource files in it, without Debian's or Qt's own tools."""

import io
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

_MAGIC = b"!<arch>\n"
_HEADER = struct.Struct(">4sIIII")
"""Of a Qt resource file: magic, version, offsets of the tree, of the data and of the names."""
_COMPRESSED, _FOLDER = 1, 2


def package_files(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names (``./usr/…``) and contents of the files of a ``.deb``, an ``ar`` archive with a ``data.tar``."""
    archive = package.read_bytes()
    if not archive.startswith(_MAGIC):
        raise ValueError(f"{package} is no Debian package: it does not begin with {_MAGIC!r}")
    at = len(_MAGIC)
    while at < len(archive):
        name, size = archive[at : at + 16].decode().rstrip(" /"), int(archive[at + 48 : at + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(archive[at + 60 : at + 60 + size])) as tar:
                for member in tar:
                    if member.isfile():
                        yield member.name, tar.extractfile(member).read()  # type: ignore[union-attr]
        at += 60 + size + size % 2


def resource_files(resources: bytes) -> dict[str, bytes]:
    """Return the files of a binary Qt resource file (``rcc --binary``) by their paths."""
    magic, version, tree, data, names = _HEADER.unpack_from(resources)
    if magic != b"qres":
        raise ValueError(f"no Qt resource file: it begins with {magic!r}")
    node_size = 14 if version == 1 else 22  # from version 2 with the time of change

    def walk(node: int, path: str) -> Iterator[tuple[str, bytes]]:
        start = tree + node * node_size
        _, flags = struct.unpack_from(">IH", resources, start)
        if flags & _FOLDER:
            count, first = struct.unpack_from(">II", resources, start + 6)
            for child in range(first, first + count):
                (offset,) = struct.unpack_from(">I", resources, tree + child * node_size)
                (length,) = struct.unpack_from(">H", resources, names + offset)
                begin = names + offset + 6  # length and hash come first
                yield from walk(child, f"{path}/{resources[begin : begin + 2 * length].decode('utf-16-be')}")
            return
        (offset,) = struct.unpack_from(">I", resources, start + 10)
        (length,) = struct.unpack_from(">I", resources, data + offset)
        content = resources[data + offset + 4 : data + offset + 4 + length]
        yield path, zlib.decompress(content[4:]) if flags & _COMPRESSED else content

    return dict(walk(0, ""))
