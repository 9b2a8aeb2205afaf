"""Calibration of probabilities: expected calibration error and Brier score."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass
class CalibrationError:
    """Sums that give both scores; predictions, of patches or images, can be added in any batches.

    The expected calibration error is Σ_b n_b/n · |mean p − mean y| over 15 bins of equal width (Guo et al., ICML
    2017, eq. 5); the Brier score is mean (p − y)². y may be a fraction instead of 0 or 1.

    Attributes:
        counts: number of predictions of each bin.
        probability: sum of p of each bin.
        truth: sum of y of each bin.
        squares: Σ (p − y)².
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    probability: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    truth: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    squares: float = 0.0

    def add(self, probabilities: NDArray[np.floating], truth: NDArray[np.floating]) -> None:
        """Add predictions.

        Args:
            probabilities: p, [n] in [0, 1].
            truth: y, [n] in [0, 1].
        """
        bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)
        self.probability += np.bincount(bins, probabilities, BINS)
        self.truth += np.bincount(bins, truth, BINS)
        self.squares += float(((probabilities.astype(np.float64) - truth) ** 2).sum())

    @property
    def count(self) -> int:
        """Number of predictions."""
        return int(self.counts.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1]."""
        return float(np.abs(self.probability - self.truth).sum() / self.count)

    @property
    def brier(self) -> float:
        """Brier score, in [0, 1]."""
        return self.squares / self.count
