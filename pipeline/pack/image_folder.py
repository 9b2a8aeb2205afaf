"""Source: a folder with one folder of images for each class; or a table of paths and labels; or images alone.

Class ids are the places of the folders in sorted order, as torchvision's ``ImageFolder`` has them; where all folders
are called by the numbers from 0 on, as in ImageNetV2, the number is the class id. Splits beside each other have the
same class ids, also where one of them lacks a class.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.pack.image_table import ALL, TABLES, read_table
from pipeline.pack.source import (
    Source,
    SourceImage,
    class_index,
    describe_empty,
    find_images,
    require_split,
)
from schemas.errors import UsageError
from schemas.pack import LeftOut

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
"""Folders that are splits, if all folders are called so: classes with these names are not told from them."""


def read(path: Path, split: str | None, classes: Sequence[str]) -> Source:
    """Read class folders, or a table with the columns ``path``, ``label`` and perhaps ``split``.

    Args:
        path: the folder, or the table; the paths in it are relative to its folder.
        split: a folder in ``path``, or a value of the column ``split``; None if there is only one, or none.
        classes: names in the order of their ids; empty for sorted order.

    Raises:
        UsageError: there is no image, or a class or a label is not as described.
    """
    if path.is_file():
        return read_table(path, split, classes)
    if split is None and (splits := _folders_in(path)) and set(splits) <= _SPLITS:
        split = require_split(None, splits, path)
    folder = path / split if split is not None else path
    if not folder.is_dir():
        folder = path
    folders = _folders_in(folder)
    tables = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in TABLES]
    if tables and not folders:
        if len(tables) > 1:
            raise UsageError(f"{folder}: holds {tables[0].name} and {tables[1].name}; name the one to read instead")
        return read_table(tables[0], split, classes)
    if split is not None and folder == path:
        raise UsageError(f"{path}: has no folder {split}; name a folder of it by --split, or leave that out")
    found = find_images(folder)
    if not folders:
        unlabelled = [SourceImage(name, file) for name, file in sorted(found.images.items())]
        return Source(unlabelled, tuple(classes), split or ALL, found.left_out)
    if split is None and not classes and (nested := _nested_folder(found.images)):
        raise UsageError(
            f"{path}: its images are in folders of folders, such as {nested}; if the outer ones are splits, name one "
            "by --split; if they are the classes, name them by --classes FILE"
        )
    others = [] if split is None else _classes_of_other_splits(path, split, folders)
    index = _index_folders(sorted({*folders, *others}), classes, folder)
    names = list(classes) or sorted(index, key=index.__getitem__)
    images = []
    left_out = list(found.left_out)
    for name, file in sorted(found.images.items()):
        class_name, slash, _ = name.partition("/")
        if slash and class_name in index:
            images.append(SourceImage(name, file, (index[class_name],)))
        else:
            left_out.append(LeftOut(name=name, reason="is in no folder of a class"))
    used = {image.class_ids[0] for image in images}
    notes = describe_empty([name for name in names if index[name] not in used])
    return Source(images, tuple(names), split or ALL, left_out, notes)


def _nested_folder(names: Iterable[str]) -> str | None:
    """Return a folder of folders with images, if all images are in such: it may be a split, or a class in parts.

    No folder is returned where each has folders of its own, as a class with folders for its photographers has.
    """
    inner: dict[str, set[str]] = {}
    for name in names:
        folders = name.split("/")[:-1]
        if len(folders) == 1:
            return None  # images stand in it, so it is a class
        if folders:
            inner.setdefault(folders[0], set()).add(folders[1])
    shared = sum(map(len, inner.values())) > len(set().union(*inner.values()))
    return next((f"{outer}/{min(names)}" for outer, names in inner.items() if shared or len(inner) == 1), None)


def _classes_of_other_splits(path: Path, split: str, folders: Sequence[str]) -> list[str]:
    """Return the class folders of the splits beside one: the folders that have a class folder in common with it."""
    others = [_folders_in(path / name) for name in _folders_in(path) if name != split]
    return [name for names in others if set(names) & set(folders) for name in names]


def _folders_in(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _index_folders(folders: list[str], classes: Sequence[str], where: Path) -> dict[str, int]:
    if classes or not all(name.isascii() and name.isdigit() for name in folders):
        return class_index(folders, classes, where)
    numbers = {name: int(name) for name in folders}
    if sorted(numbers.values()) != list(range(len(folders))):
        raise UsageError(
            f"{where}: its folders are numbers, but not 0 to {len(folders) - 1}, so they may be class ids or names; "
            "name the folders in the order of the class ids by --classes FILE"
        )
    return numbers
