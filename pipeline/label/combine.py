"""Combination of the maps of one or several methods into one heatmap, on the patch grid or in the image."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.image.iou import mask_iou
from pipeline.image.upsample import upsample_to_image, valid_region
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
    return _combine([_normalize(maps[name], bounds[name], policy) for name in policy.methods if name in maps], policy)


def combine_in_image(
    maps: Mapping[str, NDArray[np.floating]],
    bounds: Mapping[str, NDArray[np.floating]],
    views: Mapping[str, tuple[dict[str, Any], tuple[int, int]]],
    policy: Policy,
) -> tuple[Grid, NDArray[np.bool_], float | None]:
    """Combine maps of networks that see the image in other ways, pixel by pixel of the original image.

    Each map is normalized on its own grid, then upsampled to its place in the image; what ``combine_maps`` does with
    the cells of a grid is done with the pixels that all these networks saw.

    Args:
        maps: as in ``combine_maps``; each on its own grid.
        bounds: likewise.
        views: by method, where the map lies in the image, as ``ShardMaps.views``, and the size of the network's input.
        policy: how maps are normalized and combined.

    Returns:
        The heatmap, float32 [height, width] of the image, 0 where a network saw nothing; the pixels that all saw, bool
        [height, width]; and the agreement of the masks in these pixels.
    """
    names = [name for name in policy.methods if name in maps]
    seen = np.logical_and.reduce([valid_region(*views[name]) for name in names])
    pixels = [upsample_to_image(_normalize(maps[name], bounds[name], policy), *views[name])[seen] for name in names]
    heatmap = np.zeros(seen.shape, np.float32)
    heatmap[seen], agreement = _combine(pixels, policy)
    return heatmap, seen, agreement


def _combine(grids: Sequence[Grid], policy: Policy) -> tuple[Grid, float | None]:
    """Combine normalized maps of one shape, whatever it is."""
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
