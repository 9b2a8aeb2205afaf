"""Predictors that ignore the image, as lower bounds that every method must exceed.

Each has one box for each threshold of a method, so that it is counted like one.
"""

import numpy as np

from pipeline.image.score_map import SIDE
from pipeline.score.box_metrics import BOX_THRESHOLDS
from pipeline.truth.truth import Boxes

_STEP = 8
_COUNT = len(BOX_THRESHOLDS)
_SIDES = np.arange(_STEP, SIDE + 1, _STEP)[np.arange(_COUNT) * (SIDE // _STEP) // _COUNT]
"""From 8 pixels to the whole image: the size of the square takes the place of the threshold."""


def _center_squares(sides: Boxes) -> Boxes:
    first = (SIDE - sides) // 2
    last = np.minimum(first + sides, SIDE - 1)  # one past the end, like the boxes of contours
    return np.stack([first, first, last, last], 1)


TRIVIAL_BOXES: dict[str, Boxes] = {
    "whole image": _center_squares(np.full(_COUNT, SIDE)),
    "centered square": _center_squares(_SIDES),
}
"""int [255, 4] on the 224 × 224 grid. The MaxBoxAcc of the square is that of its best size, an oracle."""
