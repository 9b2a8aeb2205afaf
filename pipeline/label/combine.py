"""Combination of the maps of one or several methods into one heatmap on the patch grid."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pipeline.image.iou import mask_iou
from pipeline.label.threshold import compute_threshold
from pipeline.utils.ranks import mean_ranks
from schemas.policy import Policy

Grid = NDArray[np.float32]


def combine_maps(
    maps: Mapping[str, NDArray[np.floating]], bounds: Mapping[str, NDArray[np.floating]], policy: Policy
) -> tuple[Grid, float | None]:
    """Combine the maps of the methods of a policy, and measure how far the methods agree.

    Args:
        maps: float [h, w] in [0, 1] by method, as stored; of all methods of the policy or some.
        bounds: [2] by method, minimum and maximum of the raw map.
        policy: how maps are normalized and combined.

    Returns:
        The heatmap, float32 [h, w]; and the agreement: the mean over pairs of methods of the IoU of their masks on the
        patch grid (1 where both are empty) at the agreement threshold of the policy. None with a single method.
    """
    grids = [_normalize(maps[name], bounds[name], policy) for name in policy.methods if name in maps]
    if len(grids) == 1:
        return grids[0], None
    stack = np.stack(grids)
    masks = np.stack([grid > compute_threshold(grid, policy.agreement_threshold) for grid in grids])
    agreement = float(np.mean([mask_iou(first, second) for first, second in combinations(masks, 2)]))
    if policy.combine == "agreement":
        return masks.mean(0, dtype=np.float32), agreement
    if policy.combine == "geometric":
        return _rescale(np.exp(np.log(np.maximum(stack, 1e-6)).mean(0))), agreement
    if policy.combine == "rank_mean":
        stack = np.stack([mean_ranks(grid.ravel()).reshape(grid.shape) for grid in grids])
    return _rescale(stack.mean(0)), agreement


def _normalize(values: NDArray[np.floating], bounds: NDArray[np.floating], policy: Policy) -> Grid:
    values = values.astype(np.float32)
    if policy.normalize == "minmax":
        return values
    if policy.normalize == "clip":
        low, high = np.percentile(values, (1, 99))
        return _rescale(np.clip(values, low, high))
    raw = bounds[0] + (bounds[1] - bounds[0]) * values
    if policy.normalize == "raw":
        return raw.astype(np.float32)
    positive = np.clip(raw, 0, None)
    return (positive / positive.max() if positive.max() > 0 else np.zeros_like(values)).astype(np.float32)


def _rescale(values: NDArray[np.floating]) -> Grid:
    """Scale values to [0, 1]; constant values become 0."""
    low, high = values.min(), values.max()
    return ((values - low) / (high - low) if high > low else np.zeros_like(values)).astype(np.float32)
