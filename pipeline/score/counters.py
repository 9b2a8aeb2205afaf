"""Integer counts that all scores are computed from; they add over any split of the images, in any order.

Images fall into random groups by the hash of their keys, and each group is counted separately. Resampling the groups
is a bootstrap over the images (Wolter, Introduction to Variance Estimation, chapter 2: random groups) that stores no
single image. All methods have the same groups, so their differences are comparable.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.score.box_metrics import BOX_THRESHOLDS
from pipeline.score.pixel_metrics import BINS, MASK_THRESHOLDS, SIZE_LIMITS
from schemas.errors import RunFailedError
from schemas.scores import ERROR_KINDS

TESTED_GROUPS = slice(0, 100)
"""Groups of the images that thresholds are tested on."""
ALL_GROUPS = slice(0, 110)
"""``TESTED_GROUPS`` and the groups of the tuning split: all images of the truth."""
TUNING_GROUPS = slice(100, 111)
"""Groups of the tuning split; the last one holds images that are used for tuning only."""
TUNING_ONLY_GROUP = 110
GROUPS = 111
FIXED_POINT_SCALE = 2**24
"""Numbers in [0, 1] are stored as integer multiples of its inverse, so that sums are exact."""

HIT_NAMES = ("any30", "any50", "any70", "largest50", "top1", "top5")
BOX_ERRORS = ERROR_KINDS[2:]
"""Kinds of errors of images whose label is the prediction."""
IMAGE_SCORES = ("seg_map", "seg_f1", "pointing", "energy")
Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each count of one group."""
_SHAPES: Shapes = {
    "images": (),
    "labelled": (),
    "top1": (),
    "top5": (),
    "masks": (),
    "objects": (),
    "degenerate": (),
    "hits": (len(HIT_NAMES), len(BOX_THRESHOLDS)),
    "errors": (len(BOX_ERRORS), len(BOX_THRESHOLDS)),
    "pixels": (2, BINS),
    "sizes": (len(SIZE_LIMITS) + 1, 2, len(MASK_THRESHOLDS)),
    "confusion": (2, 2),
    "image_scores": (len(IMAGE_SCORES),),
    "f_beta": (len(MASK_THRESHOLDS),),
}


class ScoreCounts:
    """Counts of one method.

    Attributes:
        counts: int64 arrays [111, …], one row for each group. By default: ``images``; of these, the ``labelled`` ones,
            those with the label among the first 1 and 5 predictions, those that have ``masks``, and those whose mask
            has ``objects`` at 224 × 224; ``hits`` and ``errors`` at each box threshold; ``pixels``, histograms of the
            scores of object and background; ``sizes``, coarser ones by object size; ``confusion`` of
            ``segmentation_metrics``; ``image_scores`` and ``f_beta``, sums in multiples of 2⁻²⁴.
    """

    def __init__(self, counts: Mapping[str, NDArray[np.int64]] | None = None, shapes: Shapes = _SHAPES) -> None:
        self.counts = dict(counts or {name: np.zeros((GROUPS, *shape), np.int64) for name, shape in shapes.items()})

    def add(self, group: int, counts: Mapping[str, ArrayLike]) -> None:
        """Add the counts of an image.

        Args:
            group: of the image, see ``bootstrap_group``.
            counts: by name, as in ``counts``, without the axis of groups.
        """
        for name, value in counts.items():
            self.counts[name][group] += np.asarray(value)

    def __add__(self, other: "ScoreCounts") -> "ScoreCounts":
        return ScoreCounts({name: value + other.counts[name] for name, value in self.counts.items()})

    def sums(self, groups: slice, weights: NDArray[np.floating] | None = None) -> dict[str, NDArray[np.float64]]:
        """Sum over groups. Sums are exact up to 2⁵³.

        Args:
            groups: the groups to sum over.
            weights: float [R, 111], weights of the groups in each of R replicates; None is one replicate of ones.

        Returns:
            float [R, …] by name.
        """
        rows = np.ones((1, GROUPS)) if weights is None else weights
        return {name: np.tensordot(rows[:, groups], value[groups], 1) for name, value in self.counts.items()}


def to_fixed_point(values: ArrayLike) -> NDArray[np.int64]:
    """Return numbers in [0, 1] as integer multiples of 2⁻²⁴."""
    return np.rint(np.asarray(values) * FIXED_POINT_SCALE).astype(np.int64)


def bootstrap_group(key: str, in_tuning_split: bool) -> int:
    """Return the group of an image.

    Args:
        key: of the image; nothing else decides, so the group does not depend on shards.
        in_tuning_split: whether the image is in the tuning split.
    """
    groups = range(TUNING_GROUPS.start, ALL_GROUPS.stop) if in_tuning_split else range(TESTED_GROUPS.stop)
    return groups[_hash("group", key) % len(groups)]


def tuning_rank(key: str) -> int:
    """Return a pseudo-random number of an image; those with the lowest ones are the default tuning split."""
    return _hash("split", key)


def _hash(purpose: str, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{key}".encode()).digest()[:8], "little")


def to_npz(counts_by_method: Mapping[str, ScoreCounts]) -> bytes:
    """Return a compressed ``.npz`` of ``<method>/<count>``, in the smallest type that holds the values."""
    arrays = {
        f"{method}/{name}": value.astype(np.min_scalar_type(int(value.max(initial=0))))
        for method, score_counts in counts_by_method.items()
        for name, value in score_counts.counts.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_npz(data: bytes, url: str, names: Iterable[str] = tuple(_SHAPES)) -> dict[str, ScoreCounts]:
    """Return the counts of each method, the inverse of ``to_npz``.

    Args:
        data: content of the object.
        url: of the object, for errors.
        names: of the counts.

    Raises:
        RunFailedError: the object is damaged.
    """
    try:
        with np.load(io.BytesIO(data)) as arrays:
            methods = dict.fromkeys(name.rpartition("/")[0] for name in arrays.files)
            return {
                method: ScoreCounts({name: arrays[f"{method}/{name}"].astype(np.int64) for name in names})
                for method in methods
            }
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise RunFailedError(f"{url}: cannot be read ({error}); remove the folder, and score again") from None
