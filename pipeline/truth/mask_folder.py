"""Reader of folders of PNG masks, each named by the key of its image, with or without the key's folders.

Indexed or gray: 0 is background, 255 is ignored, other values are objects (Pascal VOC). RGB: R + 256 G is 0 for
background, 1000 for ignored, else an object (ImageNet-S, Gao et al., TPAMI 2022). One bit: 1 is the object.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.read.sample_keys import sample_key
from pipeline.truth.png_file import PngFile
from pipeline.truth.truth import Boxes, Mask, Truth, TruthSet
from schemas.base import sha256
from schemas.errors import UsageError

BACKGROUND, IGNORE_VOC, IGNORE_IMAGENET_S = 0, 255, 1000


def matches(path: Path) -> bool:
    """Return True if the path is a folder with PNG files, at any depth."""
    return path.is_dir() and next(path.rglob("*.png"), None) is not None


def read(path: Path) -> TruthSet:
    """Read the truth in a folder.

    Raises:
        UsageError: a file is not a PNG, or has a mode that masks do not have.
    """
    truths, hashes = [], []
    for file in sorted(path.rglob("*.png")):
        png, name = PngFile.open(file), file.relative_to(path).as_posix()
        truths.append(MaskTruth(sample_key(name), png.width, png.height, png))
        hashes.append(f"{name} {png.sha256}")
    return TruthSet.from_truths(path, sha256("\n".join(hashes).encode()), truths)


@dataclass(frozen=True, eq=False)
class MaskTruth(Truth):
    """A mask in which each value is an object."""

    png: PngFile

    @property
    def boxes(self) -> Boxes:
        return tight_boxes(_decode_objects(self.png)[0])

    @property
    def mask(self) -> Mask:
        return _decode_objects(self.png)[0] != BACKGROUND

    @property
    def ignore(self) -> Mask:
        return _decode_objects(self.png)[1]


def tight_boxes(objects: NDArray[np.int32]) -> Boxes:
    """Return the tight box of each value but 0 of int [height, width]: int64 [m, 4], ends inclusive."""
    slices = [box for box in ndimage.find_objects(objects) if box is not None]
    return np.array([[x.start, y.start, x.stop - 1, y.stop - 1] for y, x in slices], np.int64).reshape(-1, 4)


@lru_cache(maxsize=4)
def _decode_objects(png: PngFile) -> tuple[NDArray[np.int32], Mask]:
    """Return the object number of each pixel [height, width], 0 for none, and the ignored pixels."""
    stored = png.values()
    if png.mode == "1":
        return stored.astype(np.int32), np.zeros(stored.shape, bool)
    if png.mode == "RGB":
        objects = stored[..., 0] + np.int32(256) * stored[..., 1]
        if stored[..., 2].any() or objects.max() > IGNORE_IMAGENET_S:
            raise UsageError(f"{png.path}: has other colors than ImageNet-S; is it an image, not a mask?")
        ignore = objects == IGNORE_IMAGENET_S
    else:
        objects = stored.astype(np.int32)
        ignore = objects == IGNORE_VOC
        if ignore.any() and set(np.unique(objects)) == {BACKGROUND, IGNORE_VOC}:
            raise UsageError(f"{png.path}: has only 0 and 255, and 255 means ignored; write the object as 1")
    ignore.setflags(write=False)
    return np.where(ignore, BACKGROUND, objects), ignore
