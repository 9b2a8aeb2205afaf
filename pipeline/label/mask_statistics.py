"""Statistics of masks that tell when labels are wrong as a whole, summed over the masks of a shard."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.image.iou import mask_iou
from pipeline.label.mask import Label, Mask

STATISTICS = ("area", "ignored", "masks", "left_out", "objects", "border", "pairs", "likeness")
"""``area`` and ``ignored``: shares of the image. ``masks``: number. ``left_out``: masks of fewer maps than the policy
has methods. ``objects``: masks with foreground; ``border``: those of them with more than half of it in the frame of the
image. ``pairs``: successive masks with foreground; ``likeness``: their IoU on a coarse grid."""

_FRAME = 1 / 8
"""Width of the frame as a share of the image, as in the statistics of maps; it has 44 % of the pixels."""
_SIDE = 16
"""Cells along each side of the coarse grid."""


def sum_statistics(labels: Sequence[Label]) -> dict[str, float]:
    """Return the sums of ``STATISTICS`` over the labels of a shard that have a mask.

    Args:
        labels: in the order of the shard.
    """
    total = dict.fromkeys(STATISTICS, 0.0)
    previous: Mask | None = None
    for label in labels:
        mask = label.mask
        if mask is None:
            continue
        total["masks"] += 1
        total["area"] += label.area or 0.0
        total["ignored"] += label.ignored or 0.0
        total["left_out"] += label.left_out > 0
        if not mask.any():
            continue
        total["objects"] += 1
        total["border"] += frame_share(mask) > 0.5
        coarse = _coarsen(mask)
        if previous is not None:
            total["pairs"] += 1
            total["likeness"] += float(mask_iou(coarse, previous))
        previous = coarse
    return total


def frame_share(mask: Mask) -> float:
    """Return the share of the foreground of a mask that lies in the frame of the image."""
    height, width = mask.shape
    down, across = round(height * _FRAME), round(width * _FRAME)
    inside = mask[down : height - down, across : width - across]
    return 1 - float(inside.sum() / mask.sum())


def _coarsen(mask: Mask) -> NDArray[np.bool_]:
    """Return the cells of a grid that are foreground by half or more: bool [16, 16]."""
    shares = cv2.resize(mask.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    coarse: NDArray[np.bool_] = shares >= 0.5
    return coarse
