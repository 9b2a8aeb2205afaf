"""Statistical test for shortcuts at a fixed location: do the maps of a class have outliers at the same place?

A network that decides by an object looks where the object is, which differs from image to image. A network that
decides by a cue that is always in the same place, such as a watermark, looks at that place, or, where its gradient has
vanished because the cue alone decides, leaves a hole there in an otherwise flat map. Either way the same cells are
*outliers* in the maps of that class, image after image, and not in those of the other classes. So count:

- a cell is an outlier of a map if it is among the tenth of the cells that are farthest from the map's median, above or
  below it, and farther outside the quartiles than the interquartile range (Tukey, Exploratory Data Analysis, 1977,
  section 2D, with his step of 1.5 made 1). That is independent of scale, nearly independent of how peaked the maps of a
  method are, and independent of the order within their background;
- p is the share of a class's maps in which the cell is an outlier, q that of the maps of all other classes. What all
  classes share, such as a network that favors the center or a corner, is in both;
- with Clopper–Pearson intervals (Biometrika 1934) that hold for all methods, classes and cells at once (Bonferroni),
  the ``excess`` of a class is the lower limit of p − the upper limit of q, maximized over the cells.

With a probability of at least 1 − ``ALPHA`` no class of any method is above ``ALARM_THRESHOLD`` unless its p exceeds q
by more than that: the probability of any alarm by chance is at most ``ALPHA``, however cells and methods are
correlated, for images that were sampled independently. Only maps and classes are used. A method may have a habit at
one place of one class that the network does not share; ``pipeline.audit.shortcuts`` therefore asks several methods. The
test cannot detect a cue without a fixed place, one that all classes share, or one in so few images that chance could
explain it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainccinv, betaincinv

ALPHA = 0.05
"""Upper bound of the probability of any alarm by chance, among all methods and classes."""
ALARM_THRESHOLD = 0.1
"""Excess above which a class is suspicious."""
MAX_OUTLIER_SHARE = 0.1
"""Largest share of the cells of a map that may be outliers."""


def find_outlier_cells(maps: NDArray[np.floating]) -> NDArray[np.int8]:
    """Find the outlier cells of each map.

    Args:
        maps: [n, h, w], any scale, finite.

    Returns:
        int8 [n, h × w], 1 for a high outlier, −1 for a low one, 0 for other cells. At most a tenth of the cells of a
        map are outliers, but one always may be. Cells as far from the median as the first one outside of that tenth are
        not.
    """
    flat = maps.reshape(len(maps), maps.shape[1] * maps.shape[2]).astype(np.float64)
    low, middle, high = np.quantile(flat, (0.25, 0.5, 0.75), axis=1)[..., None]
    distance = np.abs(flat - middle)
    first = max(0, flat.shape[1] - max(1, int(MAX_OUTLIER_SHARE * flat.shape[1])) - 1)
    farthest = distance > np.partition(distance, first, axis=1)[:, first, None]
    step = high - low
    high_outliers, low_outliers = farthest & (flat > high + step), farthest & (flat < low - step)
    return high_outliers.astype(np.int8) - low_outliers.astype(np.int8)


@dataclass
class OutlierCounts:
    """Numbers of outliers by class and cell. Counts of several shards can be added.

    Attributes:
        maps: int64 [classes], number of maps.
        high: int64 [classes, cells], number of these maps in which the cell is a high outlier.
        low: int64 [classes, cells], number of these maps in which the cell is a low outlier.
    """

    maps: NDArray[np.int64]
    high: NDArray[np.int64]
    low: NDArray[np.int64]

    @classmethod
    def from_maps(cls, maps: NDArray[np.floating], class_ids: NDArray[np.integer], classes: int) -> "OutlierCounts":
        """Count the outliers of maps.

        Args:
            maps: [n, h, w], any scale, finite.
            class_ids: [n], class that each map explains, in [0, classes).
            classes: number of classes.
        """
        signs = find_outlier_cells(maps)
        high, low = (np.zeros((classes, signs.shape[1]), np.int64) for _ in range(2))
        np.add.at(high, class_ids, signs == 1)
        np.add.at(low, class_ids, signs == -1)
        return cls(np.bincount(class_ids, minlength=classes), high, low)

    def __add__(self, other: "OutlierCounts") -> "OutlierCounts":
        return OutlierCounts(self.maps + other.maps, self.high + other.high, self.low + other.low)

    @property
    def counts(self) -> NDArray[np.int64]:
        """High and low outliers together: int64 [classes, cells]."""
        return self.high + self.low

    @property
    def shares(self) -> NDArray[np.float64]:
        """p: float64 [classes, cells]; 0 for a class without maps."""
        return self.counts / np.maximum(self.maps, 1)[:, None]

    @property
    def other_shares(self) -> NDArray[np.float64]:
        """q: float64 [classes, cells], in the maps of all other classes; 0 without any."""
        return (self.counts.sum(0) - self.counts) / np.maximum(self.maps.sum() - self.maps, 1)[:, None]

    def excess_lower_bounds(self, methods: int = 1) -> NDArray[np.float64]:
        """Compute lower limit of p − upper limit of q: float64 [classes, cells] in [−1, 1].

        A class without maps has −1.

        Args:
            methods: number of methods whose limits are to hold at once.
        """
        hits, maps = self.counts, self.maps[:, None]
        # Bonferroni: two limits per method, class and cell. With probability 1 − ALPHA all of them hold at once.
        level = ALPHA / (2 * methods * max(1, int((self.maps > 0).sum())) * hits.shape[1])
        return _lower_limit(hits, maps, level) - _upper_limit(hits.sum(0) - hits, maps.sum() - maps, level)


def _lower_limit(hits: NDArray[np.int64], trials: NDArray[np.int64], level: float) -> NDArray[np.float64]:
    """Return the lower Clopper–Pearson limit; 0 without hits."""
    limit: NDArray[np.float64] = np.where(hits > 0, betaincinv(np.maximum(hits, 1), trials - hits + 1, level), 0.0)
    return limit


def _upper_limit(hits: NDArray[np.int64], trials: NDArray[np.int64], level: float) -> NDArray[np.float64]:
    """Return the upper Clopper–Pearson limit; 1 where all trials are hits, or there are none."""
    limit: NDArray[np.float64] = np.where(
        hits < trials, betainccinv(hits + 1, np.maximum(trials - hits, 1), level), 1.0
    )
    return limit
