"""What every source is read as: images with their classes, and the objects in them."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.read.shard_reader import IMAGE_EXTENSIONS
from pipeline.utils.local_file import read_text
from schemas.errors import UsageError
from schemas.pack import LeftOut

Box = tuple[float, float, float, float]
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class ImageFile:
    """Where the bytes of an image are: a file, or a member of a tar.

    Attributes:
        path: of the file, or of the tar.
        size: of the image, in bytes.
        offset: of the image in the file; None if it is the whole file.
    """

    path: str
    size: int
    offset: int | None = None

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            OSError: it cannot be read.
        """
        with open(self.path, "rb") as stream:
            if self.offset is None:
                return stream.read()
            stream.seek(self.offset)
            return stream.read(self.size)


@dataclass(frozen=True, eq=False)
class SourceObject:
    """An object in an image.

    Attributes:
        class_id: its class.
        box: x, y, width and height in pixels, as COCO has it; None where only its mask is known.
        mask: bool [height, width]; None where only its box is known.
        segmentation: its mask as COCO stores it, instead of ``mask``.
        ignored: a region that counts neither as object nor as background.
    """

    class_id: int
    box: Box | None = None
    mask: NDArray[np.bool_] | None = None
    segmentation: Any = None
    ignored: bool = False


def box_of_corners(x0: float, y0: float, x1: float, y1: float) -> Box:
    """Return the box with these corners, whose ends are inclusive, as x, y, width and height."""
    return x0, y0, x1 - x0 + 1, y1 - y0 + 1


@dataclass(frozen=True)
class Annotations:
    """The objects of one image.

    Attributes:
        objects: in the order of the source.
        size: width and height that the coordinates are of, where the source gives them.
    """

    objects: Sequence[SourceObject]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class SourceImage:
    """An image of a source.

    Attributes:
        name: its path in the source, with ``/``; it becomes the key.
        file: where its bytes are.
        class_ids: its labels, ascending; empty if it has none.
        read_annotations: returns its objects, given its stored width and height; None if it has no truth. It is called
            in another process.
    """

    name: str
    file: ImageFile
    class_ids: tuple[int, ...] = ()
    read_annotations: Callable[[int, int], Annotations] | None = None


@dataclass(frozen=True)
class Source:
    """A dataset as it was found.

    Attributes:
        images: sorted by name.
        classes: name of each class id; empty where nothing is labelled.
        split: name of the split that was read.
        left_out: files that are not packed, with the reason.
        notes: sentences for the user.
        write_truth: writes the truth from the new name of each packed image by its name in the source; None if
            ``read_annotations`` has the truth.
    """

    images: Sequence[SourceImage]
    classes: tuple[str, ...]
    split: str
    left_out: Sequence[LeftOut] = ()
    notes: Sequence[str] = ()
    write_truth: Callable[[Path, dict[str, str]], None] | None = None


@dataclass
class FoundFiles:
    """The image files below a folder.

    Attributes:
        images: file of each image by its path relative to the folder.
        left_out: other files, with the reason.
    """

    images: dict[str, ImageFile] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)


def find_images(folder: Path, prefix: str = "", other: Sequence[str] = ()) -> FoundFiles:
    """Find the image files below a folder, following links.

    Args:
        folder: the folder.
        prefix: of the names.
        other: extensions of files that belong to the source, and are not reported.
    """
    found = FoundFiles()
    for path in walk(folder):
        inside = path.relative_to(folder)
        name = prefix + inside.as_posix()
        if path.suffix.lower().removeprefix(".") in other:
            continue
        hidden = any(part.startswith(".") for part in inside.parts)
        if reason := "is hidden, or in a hidden folder" if hidden else image_fault(path):
            found.left_out.append(LeftOut(name=name, reason=reason))
        else:
            found.images[name] = ImageFile(str(path), path.stat().st_size)
    return found


def image_fault(path: Path) -> str | None:
    """Return why a file cannot be an image, or None if it may be one."""
    try:
        if path.is_dir():
            return "is a link to a folder" if path.is_symlink() else "is not a file"
        if path.suffix.lower().removeprefix(".") not in IMAGE_EXTENSIONS:
            return "is not an image by its extension"
        if not path.exists():
            return "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        if not path.is_file():
            return "is not a file"
        return None if path.stat().st_size else "is empty"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, sorted in each folder, following links.

    A link to a folder that it is in is yielded itself.

    Raises:
        UsageError: a folder cannot be read.
    """
    yield from _walk(folder, {os.path.realpath(folder)})


def _walk(folder: Path, above: set[str]) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
        folders = {path for path in entries if path.is_dir()}
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}; make it readable, or remove it") from None
    for path in entries:
        if path in folders and (real := os.path.realpath(path)) not in above:
            yield from _walk(path, above | {real})
        else:
            yield path


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, without the whitespace around them.

    Raises:
        UsageError: it cannot be read, or is not text.
    """
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_columns(path: Path, count: int) -> list[list[str]]:
    """Return the columns of a file, separated by blanks; the last one may hold blanks.

    Args:
        path: of the file.
        count: number of columns.

    Raises:
        UsageError: a line has fewer.
    """
    rows = [line.split(None, count - 1) for line in read_lines(path)]
    for number, row in enumerate(rows, 1):
        if len(row) != count:
            raise UsageError(f"{path}: line {number} has {len(row)} columns, not {count}; is it the file of this name?")
    return rows


def describe_empty(names: Sequence[str]) -> list[str]:
    """Return the sentence for the user, if any, about classes that have no image."""
    if len(names) < 2:
        return [f"the class {name} has no image" for name in names]
    return [f"{len(names)} classes have no image, the first is {names[0]}"]


def first_existing(candidates: Sequence[Path]) -> Path | None:
    """Return the first path that exists."""
    return next((path for path in candidates if path.exists()), None)


def require_split(split: str | None, splits: Sequence[str], where: Path) -> str:
    """Return the wanted split; the only one, where none is named.

    Args:
        split: as given by the user.
        splits: that the source has.
        where: the source.

    Raises:
        UsageError: there is no such split, or several and none is named.
    """
    if split is None and len(splits) == 1:
        return splits[0]
    if split is None or split not in splits:
        fault = "has several splits" if split is None else f"has no split {split}"
        raise UsageError(f"{where}: {fault}; name one by --split: {', '.join(splits) or 'there is none'}")
    return split


def class_index(
    names: Sequence[str], classes: Sequence[str], where: object, order: Sequence[str] = ()
) -> dict[str, int]:
    """Return the class id of each name: its place in the classes that the user gave, else in the order of the source.

    A name is found in whatever Unicode form it is: file systems of macOS decompose letters with accents.

    Args:
        names: of the classes of the source.
        classes: that the user gave; may be empty.
        where: the source, for errors.
        order: of the classes in the source; empty for sorted order.

    Raises:
        UsageError: a name is not among the given classes, or two of these are the same.
    """
    listed, item = list(classes or order) or sorted(set(names)), "--classes" if classes else where
    index: dict[str, int] = {}
    name_of: dict[str, str] = {}
    for number, name in enumerate(listed):
        if name in index:
            raise UsageError(f"{item}: the class {name!r} stands there twice; each class has one line")
        if other := name_of.get(unicodedata.normalize("NFC", name)):
            forms = f"{other!a} and {name!a}"
            raise UsageError(f"{item}: the classes {forms} are one text in two Unicode forms; rename or merge them")
        index[name] = number
        name_of[unicodedata.normalize("NFC", name)] = name
    for name in sorted(set(names) - set(index)):
        same = name_of.get(unicodedata.normalize("NFC", name))
        if same is None:
            raise UsageError(f"{where}: the class {name!r} is not in the file of --classes; add it there, or remove it")
        index[name] = index[same]
    return index
