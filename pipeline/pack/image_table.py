"""A table of images, CSV or JSONL: their paths, and perhaps labels and splits."""

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.pack.source import (
    SPLIT_NAME,
    ImageFile,
    Source,
    SourceImage,
    class_index,
    image_fault,
    read_lines,
    require_split,
)
from schemas.errors import UsageError
from schemas.pack import LeftOut

TABLES = (".csv", ".jsonl")
"""Extensions of tables."""
ALL = "all"
"""Name of the split of a source that has none."""
_COLUMNS = ("path", "label", "split")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+|nan|inf)", re.ASCII | re.IGNORECASE)
"""Numbers as tables have them in place of class ids, such as 3.0, -1 and nan."""
_CLASS_ID = re.compile(r"\d{1,18}", re.ASCII)
_MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class _Row:
    """A row: path of the image in the folder of the table; label and split are empty where they are not given."""

    name: str
    label: str
    split: str


def read_table(path: Path, split: str | None, classes: Sequence[str]) -> Source:
    """Read a table with the columns ``path``, ``label`` and perhaps ``split``.

    Class ids are the same for all splits. Labels that are numbers from 0 on are class ids; others are names, whose ids
    are their places in sorted order.

    Args:
        path: the table; the paths in it are relative to its folder.
        split: a value of the column ``split``; None if it has only one, or none.
        classes: names in the order of their ids; empty for those of the labels.

    Raises:
        UsageError: a row, a label or the split is not as described.
    """
    rows = list(_rows(path))
    left_out: list[LeftOut] = []
    if splits := sorted({row.split for row in rows if row.split}):
        split = require_split(split, splits, path)
        if not SPLIT_NAME.fullmatch(split):
            raise UsageError(f"{path}: {split!r} is no name of a split; it has letters, digits, - and _ only")
        left_out = [LeftOut(name=row.name, reason="has no split") for row in rows if not row.split]
    elif split not in (None, path.parent.name):
        raise UsageError(f"{path}: has no column split; add it, or leave out --split {split}")
    names, index = _classes({row.label for row in rows if row.label}, classes, path)
    images: dict[str, SourceImage] = {}
    for row in rows:
        if splits and row.split != split:
            continue
        if row.name in images:
            raise UsageError(f"{path}: has {row.name} twice; each image has one row")
        file = path.parent / row.name
        if reason := image_fault(file):
            left_out.append(LeftOut(name=row.name, reason=reason))
            continue
        labels = (index[row.label],) if row.label else ()
        images[row.name] = SourceImage(row.name, ImageFile(str(file), file.stat().st_size), labels)
    unlabelled = sum(not image.class_ids for image in images.values())
    notes = [f"{unlabelled} of {len(images)} images have no label"] if unlabelled else []
    return Source([images[name] for name in sorted(images)], names, split or ALL, left_out, notes)


def _classes(labels: set[str], classes: Sequence[str], path: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the names of the classes, and the class id of each label."""
    ids = {label: int(label) for label in labels if _CLASS_ID.fullmatch(label)}
    if len(ids) < len(labels) or (classes and labels & set(classes)):
        if not classes and (wrong := next(filter(_NUMBER.fullmatch, sorted(labels - set(ids))), None)):
            raise UsageError(
                f"{path}: the label {wrong} is a number, but no class id; write class ids as whole numbers from 0, or "
                "name the classes in the order of their ids by --classes FILE"
            )
        index = class_index(sorted(labels), classes, path)
        return tuple(classes) or tuple(index), index
    largest = max(ids.values(), default=-1)
    if classes and largest >= len(classes):
        raise UsageError(f"{path}: has the class id {largest}, but --classes names {len(classes)} classes")
    if largest >= _MOST_CLASSES:
        raise UsageError(f"{path}: has the class id {largest}; number the classes from 0 on, or write names")
    return tuple(classes) or tuple(str(number) for number in range(largest + 1)), ids


def _rows(path: Path) -> Iterator[_Row]:
    """Yield the rows of a table, without the blanks around their values."""
    rows = list(_parse_jsonl(path) if path.suffix.lower() == ".jsonl" else _parse_csv(path))
    columns = {column for row in rows for column in row}
    if "label" not in columns and (others := sorted(columns - set(_COLUMNS))):
        raise UsageError(f"{path}: has a column {others[0]}, but none called label; name that of the labels so")
    for number, row in enumerate(rows, 1):
        for column in _COLUMNS:
            value = row.get(column)
            if isinstance(value, bool) or not isinstance(value, str | int | None):
                of = row.get("path") if column != "path" else f"row {number}"
                raise UsageError(f"{path}: the {column} of {of} is {json.dumps(value)[:80]}; give a number or a text")
        name, label, split = (str("" if row.get(column) is None else row[column]).strip() for column in _COLUMNS)
        if not name:
            raise UsageError(f"{path}: row {number} has no path; the columns are path, label and perhaps split")
        inside = os.path.normpath(name)
        if os.path.isabs(inside) or inside.split(os.sep)[0] == os.pardir:
            raise UsageError(f"{path}: {name} leads out of the folder of the source; name images by paths below it")
        yield _Row(inside, label, split)


def _parse_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: line {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UsageError(f"{path}: line {number} is no mapping of path, label and perhaps split")
        yield row


def _parse_csv(path: Path) -> Iterator[dict[str, Any]]:
    try:
        rows = [list(map(str.strip, row)) for row in csv.reader(read_lines(path), skipinitialspace=True, strict=True)]
    except csv.Error as error:
        raise UsageError(f"{path}: is not CSV ({error})") from None
    header = rows[0] if rows else []
    if "path" not in header:
        raise UsageError(f"{path}: has no column path; its first line names the columns path, label and perhaps split")
    if len(set(header)) < len(header):
        raise UsageError(f"{path}: names a column twice in its first line; each column has one name")
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(header):
            raise UsageError(
                f"{path}: row {number} has {len(row)} columns, the first line {len(header)}; put values with commas in "
                "double quotes"
            )
        yield dict(zip(header, row, strict=True))
