"""Whether probabilities are what they say."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass
class Calibration:
    """Sums over any split of the patches.

    The expected calibration error is Σ_b n_b/n · |mean p − mean y| over 15 bins of equal width (Guo et al., ICML
    2017, eq. 5); the Brier score is mean (p − y)². y may be a share instead of 0 or 1.

    Attributes:
        number, probability, truth: of each bin: how many, and sums of p and of y.
        squares: Σ (p − y)².
    """

    number: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    probability: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    truth: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    squares: float = 0.0

    def add(self, probabilities: NDArray[np.floating], truth: NDArray[np.floating]) -> None:
        """Count patches: p and y, [n] each, in [0, 1]."""
        bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
        self.number += np.bincount(bins, minlength=BINS)
        self.probability += np.bincount(bins, probabilities, BINS)
        self.truth += np.bincount(bins, truth, BINS)
        self.squares += float(((probabilities.astype(np.float64) - truth) ** 2).sum())

    @property
    def count(self) -> int:
        """Patches that were counted."""
        return int(self.number.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1]."""
        return float(np.abs(self.probability - self.truth).sum() / self.count)

    @property
    def brier(self) -> float:
        """Brier score, in [0, 1]."""
        return self.squares / self.count
