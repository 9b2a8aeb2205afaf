"""Reader of class masks as in PASCAL VOC: a folder ``SegmentationClass`` or ``SegmentationClassAug``, or the one above.

Each value of a PNG is a class: 0 background, 1 to 20 the classes in alphabetical order, 255 ignored. A folder with a
``labelmap.txt`` beside it has classes of its own, such as the exports of CVAT, and is read as PNG masks of objects.

Source: host.robots.ox.ac.uk/pascal/VOC/voc2012, development kit, section 8.2.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.read.sample_keys import sample_key
from pipeline.truth.mask_folder import IGNORE_VOC, MaskTruth, iter_pngs
from pipeline.truth.png_file import PngFile
from pipeline.truth.truth_set import TruthSet
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import KeySeparator

EXPECTED = "SegmentationClass"
_FOLDERS = (EXPECTED, f"{EXPECTED}Aug")
IGNORED = -1
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Classes by value, from 1."""


def matches(path: Path) -> bool:
    """Return True if the path is such a folder."""
    return _mask_folder(path) is not None


def _mask_folder(path: Path) -> Path | None:
    folder = path if path.name in _FOLDERS else path / EXPECTED
    return folder if folder.is_dir() and not (folder.parent / "labelmap.txt").exists() else None


def read(path: Path, separator: KeySeparator = "first-dot") -> TruthSet:
    """Read the truth in a folder.

    Args:
        path: the folder.
        separator: dot of a file name that ends the key of its image.

    Raises:
        UsageError: there is no PNG, or one cannot be read.
    """
    folder = _mask_folder(path)
    assert folder is not None, "matches() has found it"
    truths, hashes = [], []
    for file in sorted(iter_pngs(folder)):
        png, name = PngFile.open(file), file.relative_to(folder).as_posix()
        truths.append(ClassMaskTruth(sample_key(name, separator), png.width, png.height, png))
        hashes.append(f"{name} {png.sha256}")
    if not truths:
        raise UsageError(f"{folder}: has no PNG; unpack the masks there")
    digest = sha256("\n".join(["classes", *hashes]).encode())
    return TruthSet.from_truths(path, digest, truths, tuple((name,) for name in CLASSES))


@dataclass(frozen=True, eq=False)
class ClassMaskTruth(MaskTruth):
    """A mask in which each value is a class. Where classes do not matter, each class counts as an object."""

    def class_map(self) -> NDArray[np.int64]:
        """Return the class of each pixel, int [height, width]: 0 background, −1 ignored.

        Raises:
            UsageError: the mask cannot be read, or has a value that is no class.
        """
        values = self.png.values().astype(np.int64)
        if values.ndim != 2 or ((values > len(CLASSES)) & (values != IGNORE_VOC)).any():
            raise UsageError(f"{self.png.path}: is not an indexed PNG of 0 … {len(CLASSES)} and {IGNORE_VOC}")
        return np.where(values == IGNORE_VOC, IGNORED, values)
