"""What is counted of the pictures: whole numbers that add over any split of them, in any order.

Pictures fall into random groups by the hash of their keys, and each group is counted for itself. Resampling the
groups is a bootstrap of the pictures (Wolter, Introduction to Variance Estimation, chapter 2: random groups), for
which no picture need be kept; that all methods have the same groups makes their differences comparable.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.score.box_metrics import LEVELS
from pipeline.score.pixel_metrics import BINS, MASK_TAUS, SIZES
from schemas.errors import RunFailedError

REST = slice(0, 100)
"""Groups of the pictures that thresholds are tested on."""
ALL = slice(0, 110)
"""With those of the tuning split: all pictures of the truth."""
TUNING = slice(100, 111)
"""Groups of the tuning split. The last one is of pictures that serve for nothing else."""
FIXED = 2**24
"""A number in [0, 1] is counted in these parts, so that sums are exact."""

HITS = ("any30", "any50", "any70", "largest50", "top1", "top5")
VALUES = ("seg_map", "seg_f1", "pointing", "energy")
_SHAPES: dict[str, tuple[int, ...]] = {
    "images": (),
    "labelled": (),
    "masks": (),
    "objects": (),
    "hits": (len(HITS), len(LEVELS)),
    "pixels": (2, BINS),
    "sizes": (len(SIZES) + 1, 2, len(MASK_TAUS)),
    "areas": (2, 2),
    "values": (len(VALUES),),
    "f_beta": (len(MASK_TAUS),),
}


class Tally:
    """Counts of one method.

    Attributes:
        counts: int64 arrays whose first axis is the 111 groups. ``images``, how many of them are ``labelled``, how many
            have ``masks``, and ``objects`` in these at 224 × 224; ``hits`` at each cut of boxes; ``pixels``, histograms
            of the scores of object and background; ``sizes``, coarser ones by size of the object; ``areas`` of
            ``segmentation``; ``values`` and ``f_beta``, numbers in parts of 2⁻²⁴.
    """

    def __init__(self, counts: Mapping[str, NDArray[np.int64]] | None = None) -> None:
        self.counts = dict(
            counts or {name: np.zeros((TUNING.stop, *shape), np.int64) for name, shape in _SHAPES.items()}
        )

    def add(self, group: int, counts: Mapping[str, ArrayLike]) -> None:
        """Count a picture."""
        for name, value in counts.items():
            self.counts[name][group] += np.asarray(value)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally({name: value + other.counts[name] for name, value in self.counts.items()})

    def sums(self, groups: slice, weights: NDArray[np.floating] | None = None) -> dict[str, NDArray[np.float64]]:
        """Sums over groups: [1, …], or for rows of weights [R, 111] of the groups, [R, …]. Exact up to 2⁵³."""
        rows = np.ones((1, TUNING.stop)) if weights is None else weights
        return {name: np.tensordot(rows[:, groups], value[groups], 1) for name, value in self.counts.items()}


def fixed(values: ArrayLike) -> NDArray[np.int64]:
    """Numbers in [0, 1] in parts of 2⁻²⁴."""
    return np.rint(np.asarray(values) * FIXED).astype(np.int64)


def group_of(key: str, split: bool) -> int:
    """The group of a picture by its key alone, so that it does not depend on shards."""
    groups = range(TUNING.start, ALL.stop) if split else range(REST.stop)
    return groups[_hash("group", key) % len(groups)]


def order(key: str) -> int:
    """A random number of a picture by its key alone."""
    return _hash("split", key)


def _hash(what: str, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{what}\0{key}".encode()).digest()[:8], "little")


def pack(tallies: Mapping[str, Tally]) -> bytes:
    """Tallies by method as a compressed ``.npz``: ``<method>/<count>``, in the smallest type that holds them."""
    arrays = {
        f"{method}/{name}": value.astype(np.min_scalar_type(int(value.max(initial=0))))
        for method, tally in tallies.items()
        for name, value in tally.counts.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(data: bytes, where: str) -> dict[str, Tally]:
    """What ``pack`` packed.

    Raises:
        RunFailedError: it is damaged.
    """
    try:
        with np.load(io.BytesIO(data)) as arrays:
            methods = dict.fromkeys(name.rpartition("/")[0] for name in arrays.files)
            return {
                method: Tally({name: arrays[f"{method}/{name}"].astype(np.int64) for name in _SHAPES})
                for method in methods
            }
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise RunFailedError(f"{where}: cannot be read ({error}); remove the folder, and score again") from None
