"""Do the maps of a class stand out at one place of the picture, wherever its objects are? A sign of a shortcut.

A network that decides by an object looks where the object is, now here, now there. One that decides by something that
is always in the same place, such as a watermark, looks at that place, or, where its gradient has died down because
the mark alone decides, leaves a hole there in an otherwise flat map. Either way the same cells *stand out* of the
maps of that class, picture after picture, and do not in those of the other classes. So count:

- a cell stands out of a map if it is among the tenth of the cells that are farthest from the map's median, above or
  below it, and an outlier of them all: farther outside the quartiles than these are apart (Tukey, Exploratory Data
  Analysis, 1977, section 2D, with his step of 1.5 made 1). That depends on no scale, hardly on how peaky the maps of
  a method are, and not on what order there is in their background;
- p is the share of a class's maps out of which the cell stands, q that of all other classes' maps. What all classes
  share, such as a network that likes the centre or a corner, is in both;
- with intervals of Clopper and Pearson (Biometrika 1934) that hold for all classes and cells at once (Bonferroni),
  ``locked`` = lower limit of p − upper limit of q, its maximum over the cells.

With a probability of at least 1 − ``ALPHA`` no class is above ``ALARM_THRESHOLD`` unless its p exceeds q by more than that: a
false alarm of a method has a probability of at most ``ALPHA`` for all its classes together, however cells hang
together, for pictures that were drawn independently. Only maps and classes are looked at. What it cannot see: a cue
without a place of its own, one that all classes share, and one in so few pictures that chance could explain it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

ALPHA = 0.05
"""Probability of any false alarm among all classes of a method, at most."""
ALARM_THRESHOLD = 0.1
"""A class is suspicious if more than this share of its maps stand out at one place, beyond what others do."""
MAX_OUTLIER_SHARE = 0.1
"""Share of the cells of a map that may stand out of it."""


def find_outlier_cells(maps: NDArray[np.floating]) -> NDArray[np.int8]:
    """Which cells stand out of each map.

    Args:
        maps: [n, h, w], any scale, finite.

    Returns:
        int8 [n, h × w], 1 of a cell that stands out above the others, −1 below them, 0 of the rest: at most a tenth of
        each map, but one cell at least may. Cells as far away as the first that is not in that tenth do not.
    """
    flat = maps.reshape(len(maps), maps.shape[1] * maps.shape[2]).astype(np.float64)
    low, middle, high = np.quantile(flat, (0.25, 0.5, 0.75), axis=1)[..., None]
    far = np.abs(flat - middle)
    first = max(0, flat.shape[1] - max(1, int(MAX_OUTLIER_SHARE * flat.shape[1])) - 1)
    farthest = far > np.partition(far, first, axis=1)[:, first, None]
    step = high - low
    above, below = farthest & (flat > high + step), farthest & (flat < low - step)
    return above.astype(np.int8) - below.astype(np.int8)


@dataclass
class OutlierCounts:
    """How often cells stood out, by class. Counts of parts add.

    Attributes:
        maps: int64 [classes].
        above, below: int64 [classes, cells], of those maps in which the cell stood out, above or below the median.
    """

    maps: NDArray[np.int64]
    above: NDArray[np.int64]
    below: NDArray[np.int64]

    @classmethod
    def of(cls, maps: NDArray[np.floating], classes: NDArray[np.integer], count: int) -> "OutlierCounts":
        """Count maps [n, h, w] of classes [n], each in [0, count)."""
        signs = find_outlier_cells(maps)
        above, below = (np.zeros((count, signs.shape[1]), np.int64) for _ in range(2))
        np.add.at(above, classes, signs == 1)
        np.add.at(below, classes, signs == -1)
        return cls(np.bincount(classes, minlength=count), above, below)

    def __add__(self, other: "OutlierCounts") -> "OutlierCounts":
        return OutlierCounts(self.maps + other.maps, self.above + other.above, self.below + other.below)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Either way: int64 [classes, cells]."""
        return self.above + self.below

    @property
    def shares(self) -> NDArray[np.float64]:
        """p: float64 [classes, cells]; 0 of a class without maps."""
        return self.counts / np.maximum(self.maps, 1)[:, None]

    @property
    def others(self) -> NDArray[np.float64]:
        """q: float64 [classes, cells], of the maps of all other classes; 0 without any."""
        return (self.counts.sum(0) - self.counts) / np.maximum(self.maps.sum() - self.maps, 1)[:, None]

    @property
    def locked(self) -> NDArray[np.float64]:
        """Lower limit of p − upper limit of q: float64 [classes, cells] in [−1, 1]; −1 of a class without maps."""
        hits, maps = self.counts, self.maps[:, None]
        # Two limits for each class and cell, all of which hold with probability 1 − ALPHA.
        level = ALPHA / (2 * max(1, int((self.maps > 0).sum())) * hits.shape[1])
        return _lower(hits, maps, level) - _upper(hits.sum(0) - hits, maps.sum() - maps, level)


def _lower(hits: NDArray[np.int64], of: NDArray[np.int64], level: float) -> NDArray[np.float64]:
    """Lower limit of Clopper and Pearson; 0 where nothing was hit."""
    limit: NDArray[np.float64] = np.where(hits > 0, beta.ppf(level, np.maximum(hits, 1), of - hits + 1), 0.0)
    return limit


def _upper(hits: NDArray[np.int64], of: NDArray[np.int64], level: float) -> NDArray[np.float64]:
    """Upper limit of Clopper and Pearson; 1 where all was hit, or there is nothing."""
    limit: NDArray[np.float64] = np.where(hits < of, beta.isf(level, hits + 1, np.maximum(of - hits, 1)), 1.0)
    return limit
