"""Source: a folder with one folder of images for each class; or a table of paths and labels; or images alone.

Class ids are the places of the folders in sorted order, as torchvision's ``ImageFolder`` has them; where all folders
are called by the numbers from 0 on, as in ImageNetV2, the number is the class id.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.pack.source import (
    SPLIT_NAME,
    ImageFile,
    Source,
    SourceImage,
    class_index,
    find_images,
    image_fault,
    read_lines,
    require_split,
)
from schemas.errors import UsageError
from schemas.pack import LeftOut

_TABLES = (".csv", ".jsonl")
_ALL = "all"
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
        return _read_table(path, split, classes)
    if split is None and (splits := _folders_in(path)) and set(splits) <= _SPLITS:
        split = require_split(None, splits, path)
    folder = path / split if split is not None else path
    if not folder.is_dir():
        folder = path
    folders = _folders_in(folder)
    tables = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in _TABLES]
    if tables and not folders:
        if len(tables) > 1:
            raise UsageError(f"{folder}: holds {tables[0].name} and {tables[1].name}; name the one to read instead")
        return _read_table(tables[0], split, classes)
    if split is not None and folder == path:
        raise UsageError(f"{path}: has no folder {split}; name a folder of it by --split, or leave that out")
    found = find_images(folder)
    if not folders:
        unlabelled = [SourceImage(name, file) for name, file in sorted(found.images.items())]
        return Source(unlabelled, tuple(classes), split or _ALL, found.left_out)
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
    return Source(images, tuple(names), split or _ALL, left_out, notes)


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


def _read_table(path: Path, split: str | None, classes: Sequence[str]) -> Source:
    rows = _parse_table(path)
    left_out: list[LeftOut] = []
    if splits := sorted({str(row["split"]) for row in rows if row.get("split")}):
        split = require_split(split, splits, path)
        if not SPLIT_NAME.fullmatch(split):
            raise UsageError(f"{path}: {split!r} is no name of a split; it has letters, digits, - and _ only")
        left_out = [LeftOut(name=row["path"], reason="has no split") for row in rows if not row.get("split")]
        rows = [row for row in rows if str(row.get("split")) == split]
    elif split not in (None, path.parent.name):
        raise UsageError(f"{path}: has no column split; add it, or leave out --split {split}")
    label_of = {str(row["path"]): _label_of(row, path) for row in rows}
    labels = [label for label in label_of.values() if label is not None]
    numeric = not classes and all(label.isascii() and label.isdigit() for label in labels)
    if numeric:
        names = tuple(str(number) for number in range(max(map(int, labels), default=-1) + 1))
        index = {str(label): int(label) for label in labels}
    else:
        index = _index_labels(labels, classes, path)
        names = tuple(classes) or tuple(sorted(index, key=index.__getitem__))
    images: dict[str, SourceImage] = {}
    if len(label_of) < len(rows):
        repeated = next(name for name, count in Counter(row["path"] for row in rows).items() if count > 1)
        raise UsageError(f"{path}: has {repeated} twice; each image has one row")
    for name, label in label_of.items():
        file = path.parent / name
        if reason := image_fault(file):
            left_out.append(LeftOut(name=name, reason=reason))
            continue
        image = ImageFile(str(file), file.stat().st_size)
        images[name] = SourceImage(name, image, () if label is None else (index[label],))
    return Source([images[name] for name in sorted(images)], names, split or _ALL, left_out)


def _index_labels(labels: Sequence[str], classes: Sequence[str], path: Path) -> dict[str, int]:
    """Return the class id of each label: of a name, or of a number where the classes do not have it as a name."""
    if classes and all(label.isascii() and label.isdigit() for label in labels) and not set(labels) & set(classes):
        if labels and max(map(int, labels)) >= len(classes):
            raise UsageError(
                f"{path}: has the class id {max(map(int, labels))}, but --classes names {len(classes)} classes"
            )
        return {label: int(label) for label in labels}
    if not classes and (number := next(filter(_is_fraction_or_signed, labels), None)):
        raise UsageError(
            f"{path}: the label {number} is a number, but no class id; write class ids as whole numbers from 0, or "
            "name the classes in the order of their ids by --classes FILE"
        )
    return class_index(labels, classes, path)


def _is_fraction_or_signed(label: str) -> bool:
    """Return whether a label is a number as tables have it in place of a class id: 3.0, -1, nan."""
    try:
        float(label)
    except ValueError:
        return False
    return not label.isdigit()


def _label_of(row: dict[str, Any], path: Path) -> str | None:
    """Return the label of a row without the whitespace around it; None where it has none."""
    label = row.get("label")
    if label is not None and (isinstance(label, bool) or not isinstance(label, str | int)):
        raise UsageError(f"{path}: the label of {row['path']} is {label!r}; give a class id or a name")
    return str("" if label is None else label).strip() or None


def _parse_table(path: Path) -> list[dict[str, Any]]:
    text = "\n".join(read_lines(path))
    rows: list[dict[str, Any]] = []
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{path}: line {number} is not JSON ({error})") from None
            rows.append(row)
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("path"), str) or not row["path"]:
            raise UsageError(f"{path}: row {number} has no path; the columns are path, label and perhaps split")
    return rows
