"""Folders of PNG masks, each named by the key of its picture, with or without the key's folders.

Indexed or grey: 0 is background, 255 is ignored, all else is the object (Pascal VOC). RGB: R + 256 G is 0 for
background, 1000 for ignored, else the object (ImageNet-S, Gao et al., TPAMI 2022). One bit: 1 is the object.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.read.samples import key_of
from pipeline.truth.png_file import Png
from pipeline.truth.truth import Boxes, Mask, Truth, Truths
from schemas.base import sha256
from schemas.errors import UsageError

OTHER, IGNORE_VOC, IGNORE_IMAGENET_S = 0, 255, 1000


def there(path: Path) -> bool:
    """Whether a folder holds PNGs, however deep."""
    return path.is_dir() and next(path.rglob("*.png"), None) is not None


def read(path: Path) -> Truths:
    """Truth from a folder.

    Raises:
        UsageError: a file is no PNG, or of a mode that no mask has.
    """
    truths, hashes = [], []
    for file in sorted(path.rglob("*.png")):
        png, name = Png.open(file), file.relative_to(path).as_posix()
        truths.append(PngTruth(key_of(name), png.width, png.height, png))
        hashes.append(f"{name} {png.sha256}")
    return Truths.gather(path, sha256("\n".join(hashes).encode()), truths)


@dataclass(frozen=True, eq=False)
class PngTruth(Truth):
    """A mask, of which each value is an object."""

    png: Png

    @property
    def corners(self) -> Boxes:
        return tight(_read(self.png)[0])

    @property
    def mask(self) -> Mask:
        return _read(self.png)[0] != OTHER

    @property
    def ignore(self) -> Mask:
        return _read(self.png)[1]


def tight(objects: NDArray[np.int32]) -> Boxes:
    """The tight box of each value but 0: int64 [m, 4]."""
    found = [box for box in ndimage.find_objects(objects) if box is not None]
    return np.array([[x.start, y.start, x.stop - 1, y.stop - 1] for y, x in found], np.int64).reshape(-1, 4)


@lru_cache(maxsize=4)
def _read(png: Png) -> tuple[NDArray[np.int32], Mask]:
    """The object of each pixel [height, width], 0 is none; and what is ignored."""
    stored = png.values()
    if png.mode == "1":
        return stored.astype(np.int32), np.zeros(stored.shape, bool)
    if png.mode == "RGB":
        objects = stored[..., 0] + np.int32(256) * stored[..., 1]
        if stored[..., 2].any() or objects.max() > IGNORE_IMAGENET_S:
            raise UsageError(f"{png.path}: is coloured otherwise than ImageNet-S; is it a picture, not a mask?")
        ignore = objects == IGNORE_IMAGENET_S
    else:
        objects = stored.astype(np.int32)
        ignore = objects == IGNORE_VOC
        if ignore.any() and set(np.unique(objects)) == {OTHER, IGNORE_VOC}:
            raise UsageError(f"{png.path}: has 0 and 255 alone, and 255 means ignored; write the object as 1")
    ignore.setflags(write=False)
    return np.where(ignore, OTHER, objects), ignore
