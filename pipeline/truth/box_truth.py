"""Truth of boxes only, for files that give x0, y0, x1, y1 with inclusive ends.

Numbers are kept as stored, because the reference evaluator reads them so: a box of ILSVRC may begin at 0, ends on
its last pixel, and counts that pixel. A box with x0 = x1 is one pixel wide and has an area.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.truth.truth import Boxes, Truth
from schemas.errors import UsageError

ImageSize = tuple[int, int] | None
"""Width and height in pixels; None if the files do not give them."""
_MAX_COORDINATE = 2**31


@dataclass(frozen=True, eq=False)
class BoxTruth(Truth):
    """The boxes of one image."""

    box_array: Boxes

    @property
    def boxes(self) -> Boxes:
        return self.box_array

    @property
    def written_boxes(self) -> NDArray[np.float64]:
        return self.box_array.astype(np.float64)

    @property
    def is_annotated(self) -> bool:
        return len(self.box_array) > 0

    def with_size(self, width: int, height: int) -> Truth:
        super().with_size(width, height)
        if self.width is not None:
            return self
        sizes = np.array([[width, height]] * len(self.box_array), np.float64).reshape(-1, 2)
        boxes = clip_boxes(
            self.box_array.astype(np.float64), sizes, lambda index: f"truth of {self.key}: box {index + 1}"
        )
        return replace(self, width=width, height=height, box_array=boxes)


def inclusive_box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Return a box of COCO as x0, y0, x1, y1 in pixels, ends inclusive: at least one pixel wide and high.

    Args:
        x: of its left edge, in pixels.
        y: of its upper edge, in pixels.
        width: in pixels, above 0; that of a detector may be below 1.
        height: likewise.
    """
    return x, y, max(x, x + width - 1), max(y, y + height - 1)


def build_box_truths(
    keys: Sequence[str],
    sizes: Sequence[ImageSize],
    boxes: NDArray[np.float64],
    image_indices: Sequence[int],
    describe_box: Callable[[int], str],
) -> Iterator[BoxTruth]:
    """Yield the truth of each image with its boxes, in their order.

    Args:
        keys: of the images.
        sizes: of the images.
        boxes: float [n, 4], as x0, y0, x1, y1 in pixels.
        image_indices: of each box, the index of its image in ``keys``.
        describe_box: returns the text that names the i-th box in an error.

    Raises:
        UsageError: all boxes are fractions of the image; see also ``clip_boxes``.
    """
    refuse_fractions(boxes, describe_box)
    limits = np.array([size or (np.inf, np.inf) for size in sizes], np.float64).reshape(-1, 2)
    images = np.asarray(image_indices, np.int64)
    clipped = clip_boxes(boxes, limits[images], describe_box)
    order = np.argsort(images, kind="stable")
    ends = np.searchsorted(images[order], np.arange(len(keys) + 1))
    sorted_boxes = clipped[order]
    for index, (key, size) in enumerate(zip(keys, sizes, strict=True)):
        width, height = size or (None, None)
        yield BoxTruth(key, width, height, sorted_boxes[ends[index] : ends[index + 1]])


def refuse_fractions(boxes: NDArray[np.float64], describe_box: Callable[[int], str]) -> None:
    """Refuse boxes float [n, 4] that are fractions of the image instead of pixels.

    Args:
        boxes: as x0, y0, x1, y1.
        describe_box: returns the text that names the i-th box in an error.

    Raises:
        UsageError: no number is above 1, and not all are whole.
    """
    if len(boxes) and (boxes <= 1).all() and (boxes != np.rint(boxes)).any():
        numbers = ",".join(f"{side:g}" for side in boxes[0])
        fault = "and no box of the file reaches beyond 1, as fractions of an image do; write pixels"
        raise UsageError(f"{describe_box(0)} is {numbers}, {fault}")


def clip_boxes(boxes: NDArray[np.float64], sizes: NDArray[np.float64], describe_box: Callable[[int], str]) -> Boxes:
    """Return boxes [n, 4] rounded to whole pixels and clipped to their images.

    Args:
        boxes: float [n, 4], as x0, y0, x1, y1 in pixels, ends inclusive.
        sizes: float [n, 2], width and height of the image of each box; infinite if unknown.
        describe_box: returns the text that names the i-th box in an error.

    Raises:
        UsageError: a box ends before it begins, or lies outside its image.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    faults = {
        "ends before it begins; write x0,y0,x1,y1, not a width and a height": high < low,
        "lies outside {image}; correct or remove it": (high < 0) | (low >= sizes),
        "reaches far outside {image}; correct or remove it": abs(high) > _MAX_COORDINATE,
    }
    for fault, faulty in faults.items():
        if faulty.any():
            index = int(faulty.any(1).argmax())
            numbers = ",".join(f"{side:g}" for side in boxes[index])
            size = "" if np.isinf(sizes[index]).any() else " of {:g}×{:g} pixels".format(*sizes[index])
            raise UsageError(f"{describe_box(index)} is {numbers}, which {fault.format(image='the image' + size)}")
    return np.rint(np.clip(boxes, 0, np.tile(sizes, 2) - 1)).astype(np.int64)
