"""Thresholds that maps are scored at: all of the 8-bit levels, or a coarser grid that others have used."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.score.box_metrics import THRESHOLDS
from schemas.errors import UsageError
from schemas.scores import FINEST_STEP

_COARSEST_STEP = 0.5
_WHITE = 255


@dataclass(frozen=True)
class ThresholdGrid:
    """Multiples of a step below 1. Counts are of all levels, so a grid only selects among them.

    A coarser grid finds at most the accuracy of a finer one, and its PxAP has fewer points. The evaluator of Choe et
    al. (CVPR 2020) has the steps 0.001, in training, and 0.01, on the command line.

    Args:
        step: a whole multiple of 0.001, at most 0.5.

    Raises:
        UsageError: ``step`` is another number.
    """

    step: float = FINEST_STEP

    def __post_init__(self) -> None:
        in_range = FINEST_STEP <= self.step <= _COARSEST_STEP  # false for NaN
        if not in_range or abs(self.step - self._every * FINEST_STEP) > 1e-9:
            raise UsageError(
                f"grid step {self.step:g}: must be a whole multiple of {FINEST_STEP} up to {_COARSEST_STEP}, such as "
                "0.01"
            )

    @property
    def _every(self) -> int:
        return round(self.step / FINEST_STEP)

    @cached_property
    def levels(self) -> NDArray[np.int64]:
        """int [n], 8-bit levels that boxes are found above: indices of ``BOX_THRESHOLDS``."""
        return np.unique((self._all * _WHITE).astype(np.int64))

    @cached_property
    def thresholds(self) -> NDArray[np.float64]:
        """float [n], the first threshold of the grid at each of ``levels``."""
        return self._all[np.unique((self._all * _WHITE).astype(np.int64), return_index=True)[1]]

    def threshold_of(self, level: int) -> float:
        """Return the first threshold of the grid at one of its levels."""
        return float(self.thresholds[np.searchsorted(self.levels, level)])

    @property
    def _all(self) -> NDArray[np.float64]:
        return THRESHOLDS[:: self._every]

    def coarsen(self, counts: NDArray[np.number]) -> NDArray[np.float64]:
        """Return histograms [..., 1001] of scores with the bins of the grid, and the last one for scores of 1."""
        begins = np.append(np.arange(0, len(THRESHOLDS), self._every), len(THRESHOLDS))
        return np.add.reduceat(counts, begins, axis=-1)
