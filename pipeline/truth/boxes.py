"""Truth of boxes alone, from files that name their corners x0, y0, x1, y1, ends inclusive.

The numbers are kept as they are, which is what the reference evaluator reads: a box of ILSVRC may begin at 0, ends on
its last pixel, and counts that pixel. So one with x0 = x1 is a pixel wide and has an area.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.truth.truth import Boxes, Truth
from schemas.errors import UsageError

Size = tuple[int, int] | None
"""Width and height; None where they are not said."""
_MOST = 2**31


@dataclass(frozen=True, eq=False)
class BoxTruth(Truth):
    """The boxes of one picture."""

    boxes: Boxes

    @property
    def corners(self) -> Boxes:
        return self.boxes

    @property
    def annotated(self) -> bool:
        return len(self.boxes) > 0

    def of_size(self, width: int, height: int) -> Truth:
        super().of_size(width, height)
        if self.width is not None:
            return self
        sizes = np.array([[width, height]] * len(self.boxes), np.float64).reshape(-1, 2)
        boxes = cut(self.boxes.astype(np.float64), sizes, lambda place: f"truth of {self.key}: box {place + 1}")
        return replace(self, width=width, height=height, boxes=boxes)


def box_truths(
    keys: Sequence[str],
    sizes: Sequence[Size],
    boxes: NDArray[np.float64],
    owners: Sequence[int],
    where: Callable[[int], str],
) -> Iterator[BoxTruth]:
    """Truth of pictures, each with the boxes that it owns, in their order.

    Args:
        keys, sizes: of the pictures.
        boxes: [n, 4].
        owners: of each box, the place of its picture.
        where: of each box, for what is wrong with it.

    Raises:
        UsageError: see ``cut``.
    """
    known = np.array([size or (np.inf, np.inf) for size in sizes], np.float64).reshape(-1, 2)
    owner = np.asarray(owners, np.int64)
    whole = cut(boxes, known[owner], where)
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(len(keys) + 1))
    sorted_boxes = whole[order]
    for place, (key, size) in enumerate(zip(keys, sizes, strict=True)):
        width, height = size or (None, None)
        yield BoxTruth(key, width, height, sorted_boxes[ends[place] : ends[place + 1]])


def cut(boxes: NDArray[np.float64], sizes: NDArray[np.float64], where: Callable[[int], str]) -> Boxes:
    """Boxes [n, 4] in whole pixels, cut where they reach over the border of their picture.

    Args:
        sizes: [n, 2], width and height of the picture of each; infinite where they are not known.
        where: of each box, for what is wrong with it.

    Raises:
        UsageError: one ends before it begins, or has no part in its picture.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    mistakes = {
        "ends before it begins; write x0,y0,x1,y1, not a width and a height": high < low,
        "has no part in the picture": (high < 0) | (low >= sizes),
        "is out of all bounds": abs(high) > _MOST,
    }
    for what, wrong in mistakes.items():
        if wrong.any():
            place = int(wrong.any(1).argmax())
            numbers = ",".join(f"{side:g}" for side in boxes[place])
            size = "" if np.isinf(sizes[place]).any() else " of {:g}×{:g} pixels".format(*sizes[place])
            raise UsageError(f"{where(place)} is {numbers}, which {what}{size}; correct it, or take it out")
    return np.rint(np.clip(boxes, 0, np.tile(sizes, 2) - 1)).astype(np.int64)
