"""Truth of instance masks as in OpenImages: one PNG for each object and one for the ignored pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.truth.box_truth import ImageSize
from pipeline.truth.mask_folder import tight_boxes
from pipeline.truth.png_file import PngFile
from pipeline.truth.truth import Boxes, Mask, Truth
from schemas.errors import UsageError

_ASPECT_TOLERANCE = 0.02
"""Largest relative difference between the side ratios of a mask and of its image, which rounding may cause."""


@dataclass(frozen=True, eq=False)
class InstanceTruth(Truth):
    """The masks of one image. A pixel that is not black belongs to the object, as in the reference evaluator.

    The masks of OpenImages have other sizes than its images. If no file gives the size of the image, masks keep
    their own size, and ``with_size`` resizes them to the image, by nearest pixel.

    Attributes:
        objects: one mask for each object, all of one size.
        ignored: mask of the ignored pixels; objects take precedence.
    """

    objects: tuple[PngFile, ...]
    ignored: PngFile | None

    @property
    def size(self) -> tuple[int, int]:
        return super().size or (self.objects[0].width, self.objects[0].height)

    @property
    def boxes(self) -> Boxes:
        return np.concatenate([tight_boxes(self._read_mask(png).astype(np.int32)) for png in self.objects])

    @property
    def mask(self) -> Mask:
        return np.logical_or.reduce([self._read_mask(png) for png in self.objects])

    @property
    def ignore(self) -> Mask:
        mask = self.mask
        return np.zeros_like(mask) if self.ignored is None else self._read_mask(self.ignored) & ~mask

    def with_size(self, width: int, height: int) -> Truth:
        super().with_size(width, height)
        png = self.objects[0]
        if abs(png.width * height - png.height * width) > _ASPECT_TOLERANCE * png.height * width:
            sizes = f"{self.key}: its mask is {png.width}×{png.height} pixels, the image {width}×{height}"
            raise UsageError(f"{sizes}, which is another side ratio; use the mask of this image")
        return replace(self, width=width, height=height)

    def stored_masks(self) -> tuple[Mask | None, Mask]:
        # A resize by way of the image's size would select other nearest pixels than the reference does.
        unsized = self if self.width is None else replace(self, width=None, height=None)
        return unsized.mask, unsized.ignore

    def _read_mask(self, png: PngFile) -> Mask:
        gray = png.gray()
        if self.width is not None and self.height is not None and gray.shape != (self.height, self.width):
            gray = cv2.resize(gray, (self.width, self.height), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        return gray > 0


def require_same_size(pngs: Sequence[PngFile], size: ImageSize, key: str) -> None:
    """Refuse masks of one image that differ in size.

    Args:
        pngs: masks of the image.
        size: width and height of the image, if known.
        key: of the image.

    Raises:
        UsageError: a mask differs in size from the image, or from the first mask.
    """
    width, height = size or (pngs[0].width, pngs[0].height)
    for png in pngs:
        if (png.width, png.height) != (width, height):
            other = "the image" if size else pngs[0].path
            sizes = f"{png.path}: is {png.width}×{png.height} pixels, but {other} is {width}×{height}"
            raise UsageError(f"{sizes}; is it a mask of {key}?")
