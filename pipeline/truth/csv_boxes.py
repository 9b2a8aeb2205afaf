"""A table of boxes with a header, such as ``release/ImageNetV2_boxes.txt`` of wsolevaluation.

It does not say the sizes of the pictures. (Of ``release/CUBV2_boxes.txt`` the header is wrong: its last two columns
are width and height. That is noticed where one is smaller than the corner; its metadata folder has it right.)
"""

from pathlib import Path

from pipeline.read.samples import key_of
from pipeline.truth.boxes import box_truths
from pipeline.truth.csv_lines import contents, lines, numbers
from pipeline.truth.truth import Truths
from schemas.base import sha256
from schemas.errors import UsageError

HEADER = ["image_id", "x0", "y0", "x1", "y1"]


def there(path: Path) -> bool:
    """Whether this is a table."""
    return path.is_file() and path.suffix.lower() in (".txt", ".csv")


def read(path: Path) -> Truths:
    """Truth from a table.

    Raises:
        UsageError: it has another header, a line has other columns, or a box cannot be used.
    """
    data = contents(path)
    table = lines(data, path)
    if not table or table[0].columns != HEADER:
        raise UsageError(f"{path}: its first line is not {','.join(HEADER)}; of metadata, name the folder instead")
    rows = table[1:]
    for row in rows:
        if len(row.columns) != len(HEADER):
            raise UsageError(f"{path}, line {row.number}: has {len(row.columns)} columns, not {','.join(HEADER)}")

    def where(place: int) -> str:
        return f"{path}, line {rows[place].number}: the box of {rows[place].columns[0]}"

    places: dict[str, int] = {}
    owners = [places.setdefault(row.columns[0], len(places)) for row in rows]
    boxes = numbers([row.columns[1:] for row in rows], 4, where)
    keys = [key_of(image) for image in places]
    return Truths.gather(path, sha256(data), box_truths(keys, [None] * len(keys), boxes, owners, where))
