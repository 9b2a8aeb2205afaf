"""Truth of masks, a PNG for each object and one for what is ignored, as OpenImages has them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.truth.mask_folder import tight
from pipeline.truth.png_file import Png
from pipeline.truth.truth import Boxes, Mask, Truth
from schemas.errors import UsageError

_SHAPE = 0.02
"""By how much the side ratio of a mask may differ from that of its picture, for rounding."""


@dataclass(frozen=True, eq=False)
class InstanceTruth(Truth):
    """The masks of one picture. A pixel that is not black is of the object, as for the reference evaluator.

    The masks of OpenImages are of other sizes than its pictures. Where no file says the size of the picture, masks
    are of their own size, and ``of_size`` brings them to the picture's, nearest pixel.

    Attributes:
        objects: a mask each, all of one size.
        ignored: what is ignored but where an object is.
    """

    objects: tuple[Png, ...]
    ignored: Png | None

    @property
    def corners(self) -> Boxes:
        return np.concatenate([tight(self._plane(png).astype(np.int32)) for png in self.objects])

    @property
    def mask(self) -> Mask:
        return np.logical_or.reduce([self._plane(png) for png in self.objects])

    @property
    def ignore(self) -> Mask:
        mask = self.mask
        return np.zeros_like(mask) if self.ignored is None else self._plane(self.ignored) & ~mask

    def of_size(self, width: int, height: int) -> Truth:
        super().of_size(width, height)
        png = self.objects[0]
        if abs(png.width * height - png.height * width) > _SHAPE * png.height * width:
            what = f"{self.key}: its mask is {png.width}×{png.height} pixels, the picture {width}×{height}"
            raise UsageError(f"{what}, which is another shape; is it the mask of another picture?")
        return replace(self, width=width, height=height)

    def on_grid(self, side: int) -> tuple[Mask | None, Mask]:
        if self.width is None:
            return super().on_grid(side)
        # By way of the picture's size the nearest pixel would be another one than the reference's.
        return replace(self, width=None, height=None).on_grid(side)

    def _plane(self, png: Png) -> Mask:
        grey = png.grey()
        if self.width is not None and self.height is not None and grey.shape != (self.height, self.width):
            grey = cv2.resize(grey, (self.width, self.height), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        return grey > 0


def one_size(pngs: Sequence[Png], size: tuple[int, int] | None, key: str) -> None:
    """Refuse masks of one picture that are of several sizes.

    Args:
        size: width and height of the picture, where they are known.

    Raises:
        UsageError: one is of another size than the picture, or than the first of them.
    """
    width, height = size or (pngs[0].width, pngs[0].height)
    for png in pngs:
        if (png.width, png.height) != (width, height):
            other = "the picture" if size else pngs[0].path
            what = f"{png.path}: is {png.width}×{png.height} pixels, but {other} is {width}×{height}"
            raise UsageError(f"{what}; is it a mask of {key}?")
