"""Score maps and masks in a folder or a tar, one file for each image, named by its key.

The layout is that of wsolevaluation: ``<image id>.npy``, where image ids may have folders, and their own extension or
none. Files are read where they are; no name in a tar becomes a path.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.read.byte_stream import CorruptTarError, open_byte_stream
from pipeline.read.sample_keys import escape_bytes, sample_key, split_name
from pipeline.read.shard_reader import IMAGE_EXTENSIONS
from pipeline.read.tar_members import iter_tar_members
from pipeline.score.sources.decode_map import MAX_BYTES, SUFFIXES, decode_map, map_size
from pipeline.score.sources.file_source import FileSource
from pipeline.score.sources.source import Prediction, SourceImage
from schemas.base import sha256
from schemas.commits import ObjectRecord
from schemas.errors import UsageError
from schemas.run import KeySeparator

_ARRAYS, _PNG = SUFFIXES[:2], SUFFIXES[2:]


@dataclass(frozen=True)
class MapFile:
    """A file with the map of an image.

    Attributes:
        name: of the file in its folder or tar.
        path: of the file that holds the bytes, absolute, so that workers in other folders find it.
        size: number of bytes.
        offset: of the first byte in ``path``.
    """

    name: str
    path: str
    size: int
    offset: int = 0

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            UsageError: they cannot be read, or are too many.
        """
        if self.size > MAX_BYTES:
            raise UsageError(
                f"{self.path}: {self.name} has {self.size:,} bytes, more than {MAX_BYTES:,}; reduce the map"
            )
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self.offset)
                return stream.read(self.size)
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror or error}") from None


@dataclass(frozen=True, eq=False, kw_only=True)
class MapFiles(FileSource[MapFile]):
    """Maps and masks in files.

    Attributes:
        are_image_sized: each map is as large as its image; otherwise the truth gives the size.
    """

    are_image_sized: bool = False

    @classmethod
    def open(
        cls,
        path: Path,
        name: str,
        separator: KeySeparator = "first-dot",
        are_image_sized: bool = False,
        log: Callable[[str], None] = lambda line: None,
    ) -> Self:
        """List the maps in a folder or a tar.

        Args:
            path: of the folder, or of a tar that is not compressed.
            name: of the source in tables.
            separator: dot of a file name that ends the key of its image.
            are_image_sized: as in the attribute.
            log: called with a message if there are other files.

        Raises:
            UsageError: there are no maps, or arrays and PNGs; two files are of one image; the tar cannot be read.
        """
        files = list(_list_folder(path) if path.is_dir() else _list_tar(path))
        maps = [file for file in files if file.name.lower().endswith(SUFFIXES) and not _is_hidden(file.name)]
        kinds = {kind for kind in (_ARRAYS, _PNG) if any(file.name.lower().endswith(kind) for file in maps)}
        if not maps:
            found = f"{len(files)} other files, such as {files[0].name}" if files else "no files"
            raise UsageError(f"{path}: has no {', '.join(SUFFIXES)} files ({found}); name a folder or a tar of maps")
        if len(kinds) > 1:
            raise UsageError(
                f"{path}: has both arrays and PNGs, so which are the maps is not known; leave one kind there"
            )
        if len(maps) < len(files):
            others = sorted({file.name for file in files} - {file.name for file in maps})
            log(f"{len(files) - len(maps)} files of {path} are no maps and are left out, such as {others[0]}")
        entries: dict[str, MapFile] = {}
        for file in maps:
            key = map_key(file.name, separator)
            if key in entries:
                both = f"{entries[key].name} and {file.name}"
                raise UsageError(f"{path}: {both} are both maps of {key}; remove one of them")
            entries[key] = file
        digest = sha256("\n".join(sorted(file.name for file in maps)).encode())
        return cls.of_entries(str(path), name, entries, digest, are_image_sized=are_image_sized)

    def images(self, shard: str) -> Sequence[SourceImage]:
        if not self.are_image_sized:
            return super().images(shard)
        entries = self.parts[shard].items()
        return [SourceImage(key, map_size(file.read(), file.name), is_map_sized=True) for key, file in entries]

    def read(self, entry: MapFile) -> Prediction:
        return decode_map(entry.read(), f"{self.url}: {entry.name}")

    def describe(self, key: str, entry: MapFile) -> ObjectRecord:
        data = entry.read()
        return ObjectRecord(path=entry.name, size=len(data), sha256=sha256(data))


def map_key(name: str, separator: KeySeparator) -> str:
    """Return the key of the image that a map file belongs to: of ``a/b.jpeg.npy`` or ``a/b.npy`` it is ``a/b``.

    Args:
        name: of the file.
        separator: dot of a file name that ends the key of its image.
    """
    image_id = name.rpartition(".")[0]
    if separator == "first-dot":
        return sample_key(image_id)
    key, extension = split_name(image_id, separator)
    return (key if extension.lower() in IMAGE_EXTENSIONS else image_id).removeprefix("./")


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _list_folder(path: Path) -> Iterator[MapFile]:
    """Yield the files of a folder and of the folders in it; links to folders are listed and not followed."""
    for folder, folders, names in os.walk(path, onerror=_refuse_unreadable):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*names, *links]):
            file = os.path.join(folder, name)
            if name.lower().endswith(SUFFIXES) and not os.path.isfile(file):
                raise UsageError(f"{file}: is no file, or a link to none; remove it")
            size = os.path.getsize(file) if os.path.isfile(file) else 0
            yield MapFile(escape_bytes(os.path.relpath(file, path)), os.path.abspath(file), size)


def _refuse_unreadable(error: OSError) -> None:
    raise UsageError(f"{error.filename}: {error.strerror or error}; make it readable, or remove it")


def _list_tar(path: Path) -> Iterator[MapFile]:
    try:
        with open_byte_stream(str(path.resolve())) as stream:
            if stream.compressed:
                raise UsageError(f"{path}: is compressed, so its maps cannot be read one by one; decompress it")
            for member in iter_tar_members(stream):
                if member.fault:
                    raise UsageError(f"{path}: {escape_bytes(member.name)} {member.fault}")
                yield MapFile(escape_bytes(member.name), os.path.abspath(path), member.size, stream.position)
    except (CorruptTarError, OSError) as error:
        raise UsageError(f"{path}: cannot be read as a tar ({error}); write it anew") from None
