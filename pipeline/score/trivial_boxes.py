"""Predictors that look at no picture: what every method must beat.

Each is a box at every cut of a method, so that it is counted as one.
"""

import numpy as np

from pipeline.image.score_map import SIDE
from pipeline.score.box_metrics import LEVELS, Boxes

_STEP = 8
_SIDES = np.arange(_STEP, SIDE + 1, _STEP)[np.arange(len(LEVELS)) * (SIDE // _STEP) // len(LEVELS)]
"""From 8 pixels to the whole picture: what is a threshold to others is the size of the square."""


def _square(sides: Boxes) -> Boxes:
    first = (SIDE - sides) // 2
    last = np.minimum(first + sides, SIDE - 1)  # one past the end, as the boxes of contours are
    return np.stack([first, first, last, last], 1)


TRIVIAL: dict[str, Boxes] = {
    "whole image": _square(np.full(len(LEVELS), SIDE)),
    "centred square": _square(_SIDES),
}
"""int [255, 4] on the grid of the protocol. That of the square which is best, the oracle, is its MaxBoxAcc."""
