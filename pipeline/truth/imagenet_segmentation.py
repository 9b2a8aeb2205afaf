"""Reader of ImageNet-Segmentation, ``gtsegs_ijcv.mat``: a mask of the object in each of 4,276 images.

A MATLAB file of version 7.3, which is HDF5: ``value/id`` names the images (``n02084071_1234``), ``value/gt`` has the
masks, 0 or 1, and ``value/img`` the images, which the shards hold under these names. Arrays of MATLAB are transposed.

Source: Guillaumin, Küttel & Ferrari, IJCV 2014; read as by github.com/hila-chefer/Transformer-Explainability.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.read.sample_keys import sample_key
from pipeline.truth.mask_folder import tight_boxes
from pipeline.truth.truth import Boxes, Mask, Truth
from pipeline.truth.truth_set import TruthSet
from pipeline.utils.local_file import file_sha256
from schemas.errors import UsageError
from schemas.run import KeySeparator


def matches(path: Path) -> bool:
    """Return True if the path is a MATLAB file."""
    return path.is_file() and path.suffix.lower() == ".mat"


def read(path: Path, separator: KeySeparator = "first-dot") -> TruthSet:
    """Read the truth in a file. Masks are read on demand.

    Args:
        path: the file.
        separator: dot of a file name that ends the key of its image.

    Raises:
        UsageError: h5py is not installed; the file is not such a one.
    """
    with _open(path) as file:
        names = [_text(file[reference][()]) for reference in file["value/id"][:, 0]]
        shapes = [_mask(file, index).shape for index in range(len(names))]
        digest = file_sha256(path)
    truths = [
        SegmentationTruth(sample_key(name, separator), width, height, str(path), index)
        for index, (name, (width, height)) in enumerate(zip(names, shapes, strict=True))
    ]
    return TruthSet.from_truths(path, digest, truths)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if find_spec("h5py") is None:
        raise UsageError(f"{path}: is HDF5, which requires h5py; install it with: pip install h5py")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise UsageError(f"{path}: is not the file of ImageNet-Segmentation ({error})") from None


def _mask(file: Any, index: int) -> Any:
    """Return the stored mask of an image, [width, height]."""
    return file[file[file["value/gt"][index, 0]][0, 0]]


def _text(characters: Any) -> str:
    return "".join(map(chr, np.asarray(characters).ravel().tolist())).strip()


@dataclass(frozen=True, eq=False)
class SegmentationTruth(Truth):
    """The mask of one image.

    Attributes:
        path: of the file.
        index: of the image in it.
    """

    path: str
    index: int

    @property
    def mask(self) -> Mask:
        with _open(Path(self.path)) as file:
            values = np.asarray(_mask(file, self.index)).T
        if not np.isin(values, (0, 1)).all():
            raise UsageError(f"{self.path}: the mask of {self.key} has other values than 0 and 1")
        return values == 1

    @property
    def boxes(self) -> Boxes:
        return tight_boxes(self.mask.astype(np.int32))
