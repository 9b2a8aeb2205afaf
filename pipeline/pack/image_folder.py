"""Source: a folder with one folder of images for each class; or a table of paths and labels; or images alone.

Class ids are the places of the folders in sorted order, as torchvision's ``ImageFolder`` has them; where all folders
are called by the numbers from 0 on, as in ImageNetV2, the number is the class id.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.pack.source import FoundFiles, ImageFile, Source, SourceImage, class_index, find_images, read_lines
from schemas.errors import UsageError
from schemas.pack import LeftOut

_TABLES = (".csv", ".jsonl")
_ALL = "all"


def read(path: Path, split: str | None, classes: Sequence[str]) -> Source:
    """Read class folders, or a table with the columns ``path``, ``label`` and perhaps ``split``.

    Args:
        path: the folder, or the table; the paths in it are relative to its folder.
        split: a folder in ``path``, or a value of the column ``split``.
        classes: names in the order of their ids; empty for sorted order.

    Raises:
        UsageError: there is no image, or a class or a label is not as described.
    """
    if path.is_file():
        return _read_table(path, split, classes)
    folder = path / split if split and (path / split).is_dir() else path
    tables = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in _TABLES] if folder.is_dir() else []
    folders = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if tables and not folders:
        if len(tables) > 1:
            raise UsageError(f"{folder}: holds {tables[0].name} and {tables[1].name}; name the one to read instead")
        return _read_table(tables[0], split, classes)
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
    if split is not None and any(row.get("split") for row in rows):
        splits = sorted({str(row["split"]) for row in rows if row.get("split")})
        rows = [row for row in rows if str(row.get("split")) == split]
        if not rows:
            raise UsageError(f"{path}: has no row of the split {split}; there are {', '.join(splits)}")
    labels = [str(row["label"]) for row in rows if str(row.get("label") or "").strip() or row.get("label") == 0]
    numeric = not classes and all(label.isascii() and label.isdigit() for label in labels)
    if numeric:
        names = tuple(str(number) for number in range(max(map(int, labels), default=-1) + 1))
        index = {str(label): int(label) for label in labels}
    else:
        index = _index_labels(labels, classes, path)
        names = tuple(classes) or tuple(sorted(index, key=index.__getitem__))
    images: dict[str, SourceImage] = {}
    found = FoundFiles()
    for row in rows:
        name = str(row["path"])
        file, reason = _locate(path.parent, name)
        if name in images:
            raise UsageError(f"{path}: has {name} twice; each image has one row")
        if file is None:
            found.left_out.append(LeftOut(name=name, reason=reason))
            continue
        label = str(row["label"]) if row.get("label") not in (None, "") else None
        images[name] = SourceImage(name, file, () if label is None else (index[label],))
    return Source([images[name] for name in sorted(images)], names, split or _ALL, found.left_out)


def _index_labels(labels: Sequence[str], classes: Sequence[str], path: Path) -> dict[str, int]:
    """Return the class id of each label: of a name, or of a number where the classes do not have it as a name."""
    if classes and all(label.isascii() and label.isdigit() for label in labels) and not set(labels) & set(classes):
        if labels and max(map(int, labels)) >= len(classes):
            raise UsageError(
                f"{path}: has the class id {max(map(int, labels))}, but --classes names {len(classes)} classes"
            )
        return {label: int(label) for label in labels}
    return class_index(labels, classes, path)


def _locate(folder: Path, name: str) -> tuple[ImageFile | None, str]:
    path = folder / name
    if not path.exists():
        return None, "does not exist"
    if not path.is_file():
        return None, "is not a file"
    size = path.stat().st_size
    return (ImageFile(str(path), size), "") if size else (None, "is empty")


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
