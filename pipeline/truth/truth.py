"""Ground truth of an image: boxes and masks of its objects, the same for every file format."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.image.orientation import invert_orientation, orient_boxes, orient_mask, swaps_sides
from pipeline.read.decode import MAX_PIXELS
from schemas.errors import UsageError
from schemas.run import Exif, MaskValues, TruthOrientation

Boxes = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Truth(ABC):
    """The annotated objects of one image.

    Attributes:
        key: WebDataset key of the image, derived from its file name.
        width, height: of the image in pixels; None if the files do not give them.
        orientation: of the image that the coordinates are of; None if nobody has said it.
        mask_values: what the values of a PNG mask are; None if nobody has said it.
        categories: classes of the objects, as far as the format has them.

    Raises:
        UsageError: the image has more pixels than the decoder accepts.
    """

    key: str
    width: int | None
    height: int | None
    orientation: TruthOrientation | None = field(default=None, kw_only=True)
    mask_values: MaskValues | None = field(default=None, kw_only=True)
    categories: frozenset[str] = field(default=frozenset(), kw_only=True)

    def __post_init__(self) -> None:
        if (self.width or 0) * (self.height or 0) > MAX_PIXELS:
            size = f"{self.width}×{self.height}"
            raise UsageError(f"truth of {self.key}: {size} pixels are more than the limit of {MAX_PIXELS:,}")

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels of the image that ``boxes`` are in; None if unknown."""
        return None if self.width is None or self.height is None else (self.width, self.height)

    @property
    @abstractmethod
    def boxes(self) -> Boxes:
        """int64 [m, 4]: x0, y0, x1, y1 of each object in pixels of the image, ends inclusive.

        Raises:
            UsageError: a box has no area or lies outside the image; a mask cannot be read.
        """

    @property
    def written_boxes(self) -> NDArray[np.float64]:
        """float [m, 4]: x0, y0, x1, y1 of the objects, not yet clipped; none where the files have masks only."""
        return np.zeros((0, 4))

    def box_fits(self) -> Iterator[float]:
        """Yield the IoU of the box and the box around the mask, of each object that has both in the files.

        Raises:
            UsageError: a box or a mask cannot be read.
        """
        return iter(())

    @property
    def mask(self) -> Mask | None:
        """bool [height, width], union of the objects; None if an object has only a box, or if there is no object.

        Raises:
            UsageError: a mask cannot be read.
        """
        return None

    @property
    def ignore(self) -> Mask:
        """bool [height, width], pixels that no metric counts; [1, 1], which broadcasts, if the size is unknown.

        Raises:
            UsageError: a mask cannot be read.
        """
        return np.zeros((self.height or 1, self.width or 1), bool)

    def stored_masks(self) -> tuple[Mask | None, Mask]:
        """Return ``mask`` and ``ignore`` in the size of their files, which may be another one than that of the image.

        Raises:
            UsageError: a mask cannot be read.
        """
        return self.mask, self.ignore

    def masks_on_grid(self, side: int) -> tuple[Mask | None, Mask]:
        """Return ``mask`` and ``ignore`` on a square grid, bool [side, side], by nearest pixel of ``stored_masks``.

        Raises:
            UsageError: a mask cannot be read.
        """
        mask, ignore = self.stored_masks()
        return None if mask is None else resize_mask(mask, side), resize_mask(ignore, side)

    @property
    def is_annotated(self) -> bool:
        """True if the files hold an annotation of the image, and do not only name it."""
        return True

    def with_size(self, width: int, height: int) -> "Truth":
        """Return this truth for an image of a known size, for files that do not give one.

        Args:
            width: of the image, in pixels.
            height: of the image, in pixels.

        Raises:
            UsageError: the files give another size.
        """
        if (self.width, self.height) not in ((None, None), (width, height)):
            mismatch = f"{self.key}: is {width}×{height} pixels, but {self.width}×{self.height} in the truth"
            raise UsageError(f"{mismatch}; use the truth of these images")
        return self

    def for_sample(self, sample: Mapping[str, Any], exif: Exif) -> "Truth":
        """Return this truth in the coordinates of the maps of a sample.

        Args:
            sample: its ``width`` and ``height`` in pixels, as the maps see it, and its EXIF ``orientation``.
            exif: ``apply`` if the maps are of the upright image, ``ignore`` if they are of the stored one.

        Raises:
            UsageError: the files give another size; or nothing says whether the coordinates are of the stored or of
                the upright image.
        """
        truth, code = self.place(sample, exif)
        return truth if code == 1 else _OrientedTruth(self.key, sample["width"], sample["height"], truth, code)

    def place(self, sample: Mapping[str, Any], exif: Exif) -> tuple["Truth", int]:
        """Return this truth for the image of a sample, and the EXIF orientation that turns it to the maps, 1 to 8.

        Args and errors are those of ``for_sample``.
        """
        width, height, exif_orientation = sample["width"], sample["height"], sample["orientation"]
        if exif_orientation == 1:
            return self.with_size(width, height), 1
        maps_of: TruthOrientation = "upright" if exif == "apply" else "stored"
        size_by_kind = {maps_of: (width, height)}
        turned: TruthOrientation = "stored" if maps_of == "upright" else "upright"
        size_by_kind[turned] = (height, width) if swaps_sides(exif_orientation) else (width, height)
        orientation = self.orientation or self._find_orientation(size_by_kind, exif_orientation)
        try:
            truth = self.with_size(*size_by_kind[orientation])
        except UsageError as error:
            fix = f"as the image has the EXIF orientation {exif_orientation}, state another --truth-orientation"
            raise UsageError(f"{error}, or, {fix}") from None
        if orientation == maps_of:
            return truth, 1
        return truth, exif_orientation if maps_of == "upright" else invert_orientation(exif_orientation)

    def _find_orientation(
        self, size_by_kind: Mapping[TruthOrientation, tuple[int, int]], exif_orientation: int
    ) -> TruthOrientation:
        """Return the kind of image that has the size in the files; any kind, if none has it."""
        kinds = [kind for kind, size in size_by_kind.items() if (self.width, self.height) == size]
        if self.width is None or len(kinds) > 1:
            raise UsageError(
                f"{self.key}: has the EXIF orientation {exif_orientation}, so its truth may be of the image as it is "
                "stored, as most tools see it, or of the upright one; say which by --truth-orientation stored|upright"
            )
        return kinds[0] if kinds else next(iter(size_by_kind))


@dataclass(frozen=True, eq=False)
class _OrientedTruth(Truth):
    """A truth in the coordinates of an image that is turned by ``exif_orientation``."""

    source: Truth
    exif_orientation: int

    @property
    def boxes(self) -> Boxes:
        width, height = self.source.width, self.source.height
        assert width is not None
        assert height is not None
        return orient_boxes(self.source.boxes, self.exif_orientation, width, height)

    @property
    def mask(self) -> Mask | None:
        mask = self.source.mask
        return None if mask is None else orient_mask(mask, self.exif_orientation)

    @property
    def ignore(self) -> Mask:
        return orient_mask(self.source.ignore, self.exif_orientation)

    def stored_masks(self) -> tuple[Mask | None, Mask]:
        mask, ignore = self.source.stored_masks()
        oriented = None if mask is None else orient_mask(mask, self.exif_orientation)
        return oriented, orient_mask(ignore, self.exif_orientation)

    @property
    def is_annotated(self) -> bool:
        return self.source.is_annotated


def resize_mask(mask: Mask, side: int) -> Mask:
    """Return a mask [H, W] on a grid [side, side], by nearest pixel."""
    return cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST).astype(bool)
