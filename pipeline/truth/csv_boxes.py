"""Reader of a table of boxes with a header, such as ``release/ImageNetV2_boxes.txt`` of wsolevaluation.

It does not give the sizes of the images. (The header of ``release/CUBV2_boxes.txt`` is wrong: its last two columns
are width and height. That is noticed where one is smaller than the corner; the metadata folder of CUBV2 is right.)
"""

from pathlib import Path

from pipeline.read.sample_keys import sample_key
from pipeline.truth.box_truth import build_box_truths
from pipeline.truth.csv_lines import parse_floats, parse_lines
from pipeline.truth.truth_set import TruthSet
from pipeline.utils.local_file import read_bytes
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import KeySeparator

HEADER = ["image_id", "x0", "y0", "x1", "y1"]


def matches(path: Path) -> bool:
    """Return True if the path is a table."""
    return path.is_file() and path.suffix.lower() in (".txt", ".csv")


def read(path: Path, separator: KeySeparator = "first-dot") -> TruthSet:
    """Read the truth in a table.

    Args:
        path: the table.
        separator: dot of a file name that ends the key of its image.

    Raises:
        UsageError: it has another header, a line has other columns, or a box cannot be used.
    """
    data = read_bytes(path)
    lines = parse_lines(data, path)
    if not lines or lines[0].columns != HEADER:
        raise UsageError(f"{path}: its first line is not {','.join(HEADER)}; of metadata, name the folder instead")
    rows = lines[1:]
    for row in rows:
        if len(row.columns) != len(HEADER):
            raise UsageError(f"{path}, line {row.number}: has {len(row.columns)} columns, not {','.join(HEADER)}")

    def describe_box(index: int) -> str:
        return f"{path}, line {rows[index].number}: the box of {rows[index].columns[0]}"

    index_by_image: dict[str, int] = {}
    image_indices = [index_by_image.setdefault(row.columns[0], len(index_by_image)) for row in rows]
    boxes = parse_floats([row.columns[1:] for row in rows], 4, describe_box)
    keys = [sample_key(image, separator) for image in index_by_image]
    truths = build_box_truths(keys, [None] * len(keys), boxes, image_indices, describe_box)
    return TruthSet.from_truths(path, sha256(data), truths)
