"""Choice of images by the hash of their files: the same for any order of the shards, and never apart from a copy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.head.feature_table import FeatureTable
from schemas.errors import UsageError


@dataclass(frozen=True)
class Split:
    """Rows of a table to learn from, and rows to evaluate on.

    Attributes:
        training: bool [n].
        held_out: bool [n].
        repeated: number of rows that were dropped from ``held_out``, since their images are training images as well.
    """

    training: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    repeated: int

    @classmethod
    def of(cls, table: FeatureTable, training: NDArray[np.bool_], held_out: NDArray[np.bool_]) -> "Split":
        """Drop held-out rows that are copies of training images.

        Raises:
            UsageError: there is nothing to learn from, or nothing left to evaluate on.
        """
        copies = held_out & np.isin(table.images, table.images[training])
        held_out = held_out & ~copies
        if not training.any():
            raise UsageError("the shards have no usable image to learn from; check their images and labels")
        if not held_out.any():
            known = f"; all {copies.sum()} are copies of training images" if copies.any() else ""
            raise UsageError(f"no image is left to evaluate on{known}; name other shards by --held-out")
        return cls(training, held_out, int(copies.sum()))


def hold_out(table: FeatureTable, share: float) -> NDArray[np.bool_]:
    """Choose a share of the different images of each class; one is never chosen.

    Args:
        table: features with labels.
        share: in (0, 1).

    Raises:
        UsageError: every class has too few images.
    """
    pairs, _, rows = _images_by_class(table.labels, table.images)
    counts = np.bincount(pairs[:, 0])
    quota = np.minimum(np.floor(share * counts + 0.5), counts - 1)
    if len(counts) and not quota.any():
        fault = f"no class has enough images to hold out a share of {share:g}: the largest has {counts.max()}"
        larger = "take a larger --held-out-share, or " if counts.max() > 1 else ""
        raise UsageError(f"{fault}; {larger}name other shards by --held-out")
    return np.asarray((_ranks(pairs) < quota[pairs[:, 0]])[rows])


def few_images(table: FeatureTable, among: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Choose so many different images of each class, or all where it has fewer.

    Args:
        table: features with labels.
        among: bool [n], rows to choose from.
        count: number of images.
    """
    candidates = np.flatnonzero(among)
    pairs, first, _ = _images_by_class(table.labels[candidates], table.images[candidates])
    chosen = np.zeros(len(table), bool)
    chosen[candidates[first[_ranks(pairs) < count]]] = True
    return chosen


def _images_by_class(
    labels: NDArray[np.int64], images: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted pairs of label and image, the first row of each, and the pair of each row."""
    pairs, first, rows = np.unique(np.stack([labels, images], 1), axis=0, return_index=True, return_inverse=True)
    return pairs, first, rows.ravel()


def _ranks(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each pair among those of its label."""
    return np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
