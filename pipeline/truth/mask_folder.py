"""Reader of folders of PNG masks, each named by the key of its image, with or without the key's folders.

``indexed``: 0 is background, 255 is ignored, other values are objects (Pascal VOC); RGB: R + 256 G is 0 for background,
1000 for ignored, else an object (ImageNet-S, Gao et al., TPAMI 2022). ``gray``: the object is white, from half of the
largest value on, and nothing is ignored (CUB, saliency). One bit: 1 is the object. A PNG with a palette is indexed,
unless it is black and white and 0 or 255 is white; it, and a gray one with 255, are refused until someone says which.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.read.sample_keys import sample_key
from pipeline.truth.png_file import PngFile, may_be_gray
from pipeline.truth.truth import Boxes, Mask, Truth
from pipeline.truth.truth_set import TruthSet
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import KeySeparator, MaskValues

BACKGROUND, IGNORE_VOC, IGNORE_IMAGENET_S = 0, 255, 1000
_MAX_OBJECTS = 64
"""Largest number of values of a gray mask that may be numbers of objects."""


def matches(path: Path) -> bool:
    """Return True if the path is a folder with PNG files, at any depth."""
    return path.is_dir() and next(iter_pngs(path), None) is not None


def read(path: Path, separator: KeySeparator = "first-dot") -> TruthSet:
    """Read the truth in a folder.

    Args:
        path: the folder.
        separator: dot of a file name that ends the key of its image.

    Raises:
        UsageError: a file is not a PNG, or has a mode that masks do not have.
    """
    truths, hashes = [], []
    for file in sorted(iter_pngs(path)):
        png, name = PngFile.open(file), file.relative_to(path).as_posix()
        truths.append(MaskTruth(sample_key(name, separator), png.width, png.height, png))
        hashes.append(f"{name} {png.sha256}")
    return TruthSet.from_truths(path, sha256("\n".join(hashes).encode()), truths)


def iter_pngs(path: Path) -> Iterator[Path]:
    """Yield the PNG files of a folder, at any depth."""
    return (file for file in path.rglob("*") if file.suffix.lower() == ".png")


@dataclass(frozen=True, eq=False)
class MaskTruth(Truth):
    """A mask in which each value is an object, or white pixels are."""

    png: PngFile

    @property
    def boxes(self) -> Boxes:
        return tight_boxes(_decode_objects(self.png, self.mask_values)[0])

    @property
    def mask(self) -> Mask:
        return _decode_objects(self.png, self.mask_values)[0] != BACKGROUND

    @property
    def ignore(self) -> Mask:
        return _decode_objects(self.png, self.mask_values)[1]


def tight_boxes(objects: NDArray[np.int32]) -> Boxes:
    """Return the tight box of each value but 0 of int [height, width]: int64 [m, 4], ends inclusive."""
    from scipy import ndimage  # takes a quarter of a second, and few read masks of objects

    slices = [box for box in ndimage.find_objects(objects) if box is not None]
    return np.array([[x.start, y.start, x.stop - 1, y.stop - 1] for y, x in slices], np.int64).reshape(-1, 4)


@lru_cache(maxsize=4)
def _decode_objects(png: PngFile, mask_values: MaskValues | None) -> tuple[NDArray[np.int32], Mask]:
    """Return the object number of each pixel [height, width], 0 for none, and the ignored pixels."""
    stored = png.values()
    is_gray = png.mode != "P" or (mask_values != "indexed" and may_be_gray(png.palette(), stored))
    if png.mode == "1" or (mask_values == "gray" and is_gray):
        white = stored if stored.dtype == bool else _is_white(png, png.gray() if png.mode == "P" else stored)
        return white.astype(np.int32), np.zeros(white.shape, bool)
    if stored.ndim == 3:
        return _split(_imagenet_s_objects(png, stored), IGNORE_IMAGENET_S)
    objects = stored.astype(np.int32)
    if is_gray and mask_values is None and (reason := _looks_gray(png, objects)):
        raise UsageError(
            f"{png.path}: {reason}; say whether its values are numbers of objects, 255 ignored, or a white object, by "
            "--mask-values indexed|gray"
        )
    return _split(objects, IGNORE_VOC)


def _is_white(png: PngFile, stored: NDArray[Any]) -> Mask:
    """Return the pixels from half of the largest value of the mode on."""
    largest = 65535 if png.mode.startswith("I") else 255
    white: Mask = (stored if stored.ndim == 2 else stored.max(2)) > largest // 2
    return white


def _looks_gray(png: PngFile, objects: NDArray[np.int32]) -> str | None:
    """Return why a gray mask may show a white object instead of numbers of objects, or None."""
    values = np.unique(objects)
    if png.mode == "P":
        return "is an indexed PNG in black and white that shows 0 or 255 in white"
    if png.mode.startswith("I"):
        return "is a gray PNG of 16 bits"
    if IGNORE_VOC in values:
        return "has the value 255, which is white in one kind of mask and ignored in the other"
    if len(values) > _MAX_OBJECTS:
        return f"has {len(values)} values, as many as a gray image"
    return None


def _imagenet_s_objects(png: PngFile, stored: NDArray[np.uint8]) -> NDArray[np.int32]:
    objects = stored[..., 0] + np.int32(256) * stored[..., 1]
    if stored[..., 2].any() or objects.max() > IGNORE_IMAGENET_S:
        raise UsageError(
            f"{png.path}: has other colors than ImageNet-S; if its object is white, say so by --mask-values gray"
        )
    return objects


def _split(objects: NDArray[np.int32], ignored: int) -> tuple[NDArray[np.int32], Mask]:
    ignore: Mask = objects == ignored
    ignore.setflags(write=False)
    return np.where(ignore, BACKGROUND, objects), ignore
