"""Signs that a truth means something else than its format says: corners, scale, classes, background.

Each object alone is possible, so most of these signs are warnings. Refused are boxes of COCO that all are x0, y0, x1,
y1 inside of their images, but reach out of them as x, y, width, height; masks that lie elsewhere than the boxes of
their objects, as run lengths by rows do; and masks none of which has background.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipeline.truth.truth import Truth
from schemas.errors import UsageError

FEW = 10
"""Fewest boxes, or images, that a sign is taken from."""
_MASKS = 20
"""Number of masks that are decoded; more where these are unlikely, since neighbours may be alike."""
_OBJECTS = 2
"""Largest number of objects of one image whose mask and box are compared."""
_MANY = 200
"""Largest number of objects of all images whose mask and box are compared."""
_BEYOND = 0.01
"""Share of the side of an image by which a box may end outside of it."""
_SHARE_BEYOND = 0.05
_FIT = 0.5
"""IoU of a box and the box around its mask, which boxes that are drawn by hand have, too."""
_CORNER = 0.7
"""Part of width and of height, from the upper left, beyond which some object of ``FEW`` images reaches."""


def refuse_corners(boxes: NDArray[np.float64], sizes: NDArray[np.float64], path: object) -> None:
    """Refuse boxes of COCO that are x0, y0, x1, y1: inside of their images as such, but not as x, y, width, height.

    Args:
        boxes: float [n, 4], as x, y, width, height in pixels. Fewer than ``FEW`` are accepted, since they may be both.
        sizes: float [n, 2], width and height of the image of each, in pixels.
        path: of their file, for the error.

    Raises:
        UsageError: they are.
    """
    start, end = boxes[:, :2], boxes[:, 2:]
    are_corners = (start >= 0) & (start < end) & (end <= sizes)
    beyond = _reaches_out(start + end, sizes)
    if len(boxes) >= FEW and are_corners.all() and beyond.mean() >= _SHARE_BEYOND:
        index = int(beyond.argmax())
        box, (width, height) = ",".join(f"{side:g}" for side in boxes[index]), sizes[index]
        raise UsageError(
            f"{path}: its boxes are x0,y0,x1,y1 and not x,y,width,height, as which {box} would reach out of its image "
            f"of {width:g}×{height:g} pixels; write width and height, or clip the boxes to their images"
        )


def _reaches_out(ends: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which boxes end outside of their image, bool [n], given x1, y1 and sizes, float [n, 2]."""
    outside: NDArray[np.bool_] = np.any(ends > sizes * (1 + _BEYOND) + 1, axis=1)
    return outside


class TruthFaults:
    """Counts unlikely objects of scored images, and says what is unlikely about them."""

    def __init__(self) -> None:
        self._images = self._boxes = self._beyond = self._mixed = self._masks = self._framed = self._filled = 0
        self._reach = np.zeros(2)
        self._fits: list[float] = []

    def add(self, truth: Truth, sized: Truth) -> None:
        """Add an image.

        Args:
            truth: as it was read.
            sized: the same, with the size of the image that its coordinates are of; without one its boxes say nothing.
        """
        self._mixed += len(truth.categories) > 1
        if len(self._fits) < (_MANY if self._are_apart() else _MASKS):
            self._fits += islice(truth.box_fits(), _OBJECTS)
        if not len(boxes := truth.written_boxes):
            self._add_mask(truth)
            return
        if sized.size is None:
            return
        self.add_boxes(boxes, sized.size)

    def add_boxes(self, boxes: NDArray[np.float64], size: tuple[int, int]) -> None:
        """Add the boxes of an image: objects, or predictions.

        Args:
            boxes: float [m, 4], as x0, y0, x1, y1 in pixels, ends inclusive.
            size: width and height of the image in pixels.
        """
        ends, sizes = boxes[:, 2:] + 1, np.array([size], np.float64)
        self._images += 1
        self._boxes += len(boxes)
        self._beyond += int(_reaches_out(ends, sizes).sum())
        self._reach = np.maximum(self._reach, (ends / sizes).max(0))

    def _are_apart(self) -> bool:
        """Return whether mask and box of most objects lie apart."""
        return sum(fit < _FIT for fit in self._fits) > len(self._fits) / 2

    def _add_mask(self, truth: Truth) -> None:
        """Count an object that covers more than half of the border of its image."""
        mask = truth.mask if self._masks < _MASKS or self._filled == self._masks else None
        if mask is not None and mask.any():
            self._masks += 1
            self._filled += bool((mask | truth.ignore).all())
            self._framed += bool(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean() > 0.5)

    def describe(self, name: str) -> Iterator[str]:
        """Yield a warning for each fault.

        Args:
            name: of the truth.

        Raises:
            UsageError: masks and boxes of most objects lie apart, or no mask has background.
        """
        if self._mixed:
            images = "1 image has" if self._mixed == 1 else f"{self._mixed:,} images have"
            yield (
                f"{images} objects of several classes in {name}, and each of them counts as the object; "
                "leave those of the explained class in it"
            )
        if self._beyond > 1 and self._beyond >= _SHARE_BEYOND * self._boxes:
            yield (
                f"{self._beyond:,} of {self._boxes:,} boxes in {name} end outside of their image, where they "
                "are cut; are they of images of this size, and is the order of their numbers that of the format?"
            )
        elif self._images >= FEW and self._reach.max() < _CORNER:
            width, height = 100 * self._reach
            yield (
                f"no box in {name} reaches beyond {width:.0f} % of the width and {height:.0f} % of the height of "
                "its image, from the upper left; are they of smaller images, or in percent?"
            )
        if self._are_apart():
            apart = sum(fit < _FIT for fit in self._fits)
            fault = (
                f"mask and box lie apart in {apart} of {len(self._fits)} objects of {name}; run lengths go "
                "down the columns, polygons are x,y of each corner in pixels, boxes are x,y,width,height"
            )
            if len(self._fits) >= FEW:
                raise UsageError(f"{fault}; correct what is wrong, or remove it")
            yield fault
        if self._masks >= FEW and self._filled == self._masks:
            raise UsageError(
                f"none of {self._masks} masks in {name} has background, which is 0; write 0 where no object "
                "is, and 255 where it is not known"
            )
        if self._masks >= FEW and self._framed > self._masks / 2:
            yield (
                f"in {self._framed} of the first {self._masks} masks of {name} the object covers most of the border of "
                "the image; is it the background that they mark?"
            )
