"""Maps of one method or several, normalised and made one, on the patch grid."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pipeline.image.iou import mask_iou
from pipeline.label.threshold import threshold
from schemas.policy import Policy

Grid = NDArray[np.float32]


def combine(
    maps: Mapping[str, NDArray[np.floating]], bounds: Mapping[str, NDArray[np.floating]], policy: Policy
) -> tuple[Grid, float | None]:
    """One map of all methods of a policy, and how far they agree.

    Args:
        maps: float [h, w] in [0, 1] by method, as they are stored; of all methods of the policy or some.
        bounds: [2] by method, minimum and maximum of the raw map.

    Returns:
        float32 [h, w]; and the mean over pairs of methods of the IoU of their masks on the patch grid (1 where both
        are empty), each cut by the vote of the policy; None of a single method.
    """
    grids = [_normalise(maps[name], bounds[name], policy) for name in policy.methods if name in maps]
    if len(grids) == 1:
        return grids[0], None
    stack = np.stack(grids)
    masks = np.stack([grid > threshold(grid, policy.agreement_threshold) for grid in grids])
    agreement = float(np.mean([mask_iou(first, second) for first, second in combinations(masks, 2)]))
    if policy.combine == "agreement":
        return masks.mean(0, dtype=np.float32), agreement
    if policy.combine == "geometric":
        return _stretch(np.exp(np.log(np.maximum(stack, 1e-6)).mean(0))), agreement
    if policy.combine == "rank_mean":
        stack = np.stack([rankdata(grid).reshape(grid.shape) for grid in grids])
    return _stretch(stack.mean(0)), agreement


def _normalise(values: NDArray[np.floating], bounds: NDArray[np.floating], policy: Policy) -> Grid:
    values = values.astype(np.float32)
    if policy.normalize == "minmax":
        return values
    if policy.normalize == "clip":
        low, high = np.percentile(values, (1, 99))
        return _stretch(np.clip(values, low, high))
    raw = bounds[0] + (bounds[1] - bounds[0]) * values
    if policy.normalize == "raw":
        return raw.astype(np.float32)
    positive = np.clip(raw, 0, None)
    return (positive / positive.max() if positive.max() > 0 else np.zeros_like(values)).astype(np.float32)


def _stretch(values: NDArray[np.floating]) -> Grid:
    low, high = values.min(), values.max()
    return ((values - low) / (high - low) if high > low else np.zeros_like(values)).astype(np.float32)
