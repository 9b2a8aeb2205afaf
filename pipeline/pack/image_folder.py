"""Source: a folder with one folder of images for each class; or a table of paths and labels; or images alone.

Class ids are the places of the folders in sorted order, as torchvision's ``ImageFolder`` has them; where all folders
are called by the numbers from 0 on, as in ImageNetV2, the number is the class id.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline.pack.image_table import ALL, TABLES, read_table
from pipeline.pack.source import (
    Source,
    SourceImage,
    class_index,
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
    index = _index_folders(folders, classes, folder)
    names = sorted(index, key=index.__getitem__)
    images = []
    left_out = list(found.left_out)
    for name, file in sorted(found.images.items()):
        class_name, slash, _ = name.partition("/")
        if slash and class_name in index:
            images.append(SourceImage(name, file, (index[class_name],)))
        else:
            left_out.append(LeftOut(name=name, reason="is in no folder of a class"))
    used = {image.class_ids[0] for image in images}
    notes = [f"the class {name} has no image" for name in names if index[name] not in used]
    return Source(images, tuple(names), split or ALL, left_out, notes)


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
