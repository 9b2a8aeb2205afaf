"""What truth a path holds: one line for each format."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.truth import coco, csv_boxes, ilsvrc, mask_folder, wsolevaluation
from pipeline.truth.truth import Truths
from schemas.errors import UsageError


@dataclass(frozen=True)
class Format:
    """A kind of annotation files.

    Attributes:
        looks_for: what a folder of it holds, for people; None where it is a file only.
        there: whether a path is of this kind, by its name and those of the files in it.
        read: reads it.
    """

    looks_for: str | None
    there: Callable[[Path], bool]
    read: Callable[[Path], Truths]


FORMATS: dict[str, Format] = {
    "coco": Format(coco.INSTANCES, coco.there, coco.read),
    "table": Format(None, csv_boxes.there, csv_boxes.read),
    "wsolevaluation": Format(
        f"{wsolevaluation.IDS} with {wsolevaluation.OBJECTS}", wsolevaluation.there, wsolevaluation.read
    ),
    "ilsvrc": Format("XML annotations", ilsvrc.there, ilsvrc.read),
    "png": Format("PNG masks", mask_folder.there, mask_folder.read),
}
"""In the order in which they are looked for: the first that is there is read."""


def read_truth(path: str | Path) -> Truths:
    """Truth from a file or a folder, whatever format it has.

    Raises:
        UsageError: there is nothing, nothing known, or something wrong with it.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path}: No such file or folder")
    for each in FORMATS.values():
        if each.there(path):
            return each.read(path)
    looked = " nor ".join(each.looks_for for each in FORMATS.values() if each.looks_for)
    raise UsageError(f"{path}: holds neither {looked}")
