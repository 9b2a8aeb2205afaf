"""Reader of the point labels of OpenImages V7, ``oidv7-…-annotations-point-labels.csv``.

A line says whether the object of a class is at a point: ``ImageId,X,Y,Label,EstimatedYesNo,…``, X and Y in [0, 1] of
the whole image. Lines that are ``unsure`` are left out. Names of the classes are those of the file
``oidv7-class-descriptions.csv`` in the same folder, or else of the column ``TextLabel``.

Source: Benenson & Ferrari, arXiv 2210.14142; storage.googleapis.com/openimages/web/factsfigures_v7.html.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from pipeline.read.sample_keys import sample_key
from pipeline.truth.truth import Boxes, Truth
from pipeline.truth.truth_set import TruthSet
from pipeline.utils.local_file import read_bytes
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import KeySeparator

DESCRIPTIONS = "oidv7-class-descriptions.csv"
_COLUMNS = {
    "ImageId": pa.string(),
    "X": pa.float64(),
    "Y": pa.float64(),
    "Label": pa.string(),
    "EstimatedYesNo": pa.string(),
}
_TEXT = "TextLabel"
_ANSWERS = ("yes", "no", "unsure")


def matches(path: Path) -> bool:
    """Return True if the path is such a file, by its name."""
    return path.is_file() and path.suffix.lower() == ".csv" and "point-labels" in path.name


def read(path: Path, separator: KeySeparator = "first-dot") -> TruthSet:
    """Read the truth in a file.

    Args:
        path: the file.
        separator: dot of a file name that ends the key of its image.

    Raises:
        UsageError: it lacks a column, or a line has no class, an unknown answer, or a point outside of the image.
    """
    data = read_bytes(path)
    table = _read_table(data, path)
    names_file = path.parent / DESCRIPTIONS
    names_data = read_bytes(names_file) if names_file.exists() else b""
    labels = table["Label"].combine_chunks().dictionary_encode()
    texts = (
        dict(zip(*(table[name].to_pylist() for name in ("Label", _TEXT)), strict=True))
        if _TEXT in table.column_names
        else {}
    )
    described = _read_descriptions(names_data, names_file)
    mids = labels.dictionary.to_pylist()
    classes = tuple(tuple(filter(None, (mid, described.get(mid) or texts.get(mid)))) for mid in mids)
    class_ids, points = labels.indices.to_numpy(), np.stack([table[name].to_numpy() for name in "XY"], 1)
    is_yes = pc.equal(table["EstimatedYesNo"], "yes").to_numpy()
    images = table["ImageId"].combine_chunks().dictionary_encode()
    order = np.argsort(images.indices.to_numpy(), kind="stable")
    ends = np.searchsorted(images.indices.to_numpy()[order], np.arange(len(images.dictionary) + 1))
    truths = []
    for index, name in enumerate(images.dictionary.to_pylist()):
        rows = order[ends[index] : ends[index + 1]]
        key = sample_key(name, separator)
        truths.append(PointTruth(key, None, None, class_ids[rows], points[rows], is_yes[rows]))
    return TruthSet.from_truths(path, sha256(data + names_data), truths, classes)


def _read_table(data: bytes, path: Path) -> pa.Table:
    """Return the lines that are not unsure."""
    try:
        header = data.split(b"\n", 1)[0].decode("utf-8-sig").strip().split(",")
        if missing := [name for name in _COLUMNS if name not in header]:
            raise UsageError(f"{path}: has no column {missing[0]}; there are {', '.join(header)[:200]}")
        columns = [name for name in (*_COLUMNS, _TEXT) if name in header]
        convert = csv.ConvertOptions(
            include_columns=columns,
            column_types=_COLUMNS | {_TEXT: pa.string()},
            null_values=[""],
            strings_can_be_null=True,
        )
        table = csv.read_csv(io.BytesIO(data), convert_options=convert)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not a CSV of point labels ({str(error)[:200]})") from None
    inside = [pc.and_(pc.greater_equal(table[name], 0), pc.less_equal(table[name], 1)) for name in "XY"]
    checks = {
        "names no image": pc.is_valid(table["ImageId"]),
        "names no class": pc.is_valid(table["Label"]),
        "is not answered by yes, no or unsure": pc.is_in(table["EstimatedYesNo"], pa.array(_ANSWERS)),
        "has no point in [0, 1]": pc.and_(*inside),
    }
    for fault, is_right in checks.items():
        wrong = np.flatnonzero(~pc.fill_null(is_right, False).to_numpy())
        if len(wrong):
            raise UsageError(f"{path}, line {wrong[0] + 2}: {fault}; correct or remove it")
    return table.filter(pc.not_equal(table["EstimatedYesNo"], "unsure"))


def _read_descriptions(data: bytes, path: Path) -> Mapping[str, str]:
    """Return the name of each class; the file may have a header."""
    if not data:
        return {}
    try:
        options = csv.ReadOptions(column_names=["LabelName", "DisplayName"])
        strings = csv.ConvertOptions(column_types={"LabelName": pa.string(), "DisplayName": pa.string()})
        table = csv.read_csv(io.BytesIO(data), read_options=options, convert_options=strings)
    except pa.ArrowException as error:
        raise UsageError(f"{path}: is not a CSV of class names ({str(error)[:200]})") from None
    return dict(zip(table["LabelName"].to_pylist(), table["DisplayName"].to_pylist(), strict=True))


@dataclass(frozen=True, eq=False)
class PointTruth(Truth):
    """Points of one image at which the object of a class is, or is not.

    Attributes:
        class_ids: int [n], places in ``TruthSet.classes``.
        points: float64 [n, 2], x and y in [0, 1] of the image.
        is_yes: bool [n], whether the object is there.
    """

    class_ids: NDArray[np.integer]
    points: NDArray[np.float64]
    is_yes: NDArray[np.bool_]

    @property
    def boxes(self) -> Boxes:
        raise UsageError(
            f"{self.key}: its truth has points of classes, no boxes or masks; only vitatlas score takes it"
        )

    @property
    def is_annotated(self) -> bool:
        return bool(self.is_yes.any())
