"""Semantic segmentation by the maps of several classes: the mean IoU of PASCAL VOC (Everingham et al., IJCV 2010).

Each map is resized bilinearly to the image and scaled to [0, 1]. A pixel has the class of the largest map, if that is
above a threshold, and is background otherwise. CLIP-ES (Lin et al., CVPR 2023) takes (1 − max)^α for background
instead; as it falls where the maximum rises, each α is one of the thresholds: 0.5 for α = 1, 0.382 for α = 2.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.image.upsample import upsample_to_image, valid_region
from pipeline.score.counters import Shapes
from pipeline.score.pixel_metrics import MASK_THRESHOLDS

_LEVELS = len(MASK_THRESHOLDS) + 1


def pixel_shapes(classes: int) -> Shapes:
    """Return the counts of pixels, by the number of thresholds that the largest map exceeds."""
    by_level = dict.fromkeys(("hits", "predicted"), (classes, _LEVELS))
    return {"images": (), "background": (_LEVELS,), "truth": (classes + 1,), **by_level}


def count_pixels(
    maps: Sequence[NDArray[np.floating]],
    map_classes: Sequence[int],
    class_map: NDArray[np.integer],
    sample: Mapping[str, Any],
    input_size: tuple[int, int],
    classes: int,
) -> dict[str, ArrayLike]:
    """Return the counts of one image.

    Args:
        maps: float [h, w] each, any scale.
        map_classes: class of each map, from 1; 0 for one that the truth does not have, which counts as background.
        class_map: int [height, width] of the image, the true classes: 0 background, −1 ignored.
        sample: row of the sample table.
        input_size: height and width of the network's input, in pixels.
        classes: number of classes.
    """
    largest = np.zeros(class_map.shape, np.float32)
    predicted = np.zeros(class_map.shape, np.int64)
    for values, class_id in zip(maps, map_classes, strict=True):
        scaled = _scale_to_image(values, sample, input_size)
        is_larger = scaled > largest
        largest[is_larger], predicted[is_larger] = scaled[is_larger], class_id
    levels = np.searchsorted(MASK_THRESHOLDS, largest, side="left")  # thresholds below the value
    levels[predicted == 0] = 0
    counted = class_map >= 0
    true, predicted, levels = class_map[counted], predicted[counted], levels[counted]
    is_hit = (true == predicted) & (true > 0)
    return {
        "images": 1,
        "background": np.bincount(levels[true == 0], minlength=_LEVELS),
        "truth": np.bincount(true, minlength=classes + 1),
        "hits": _by_class_and_level(predicted[is_hit], levels[is_hit], classes),
        "predicted": _by_class_and_level(predicted, levels, classes),
    }


def _by_class_and_level(class_ids: NDArray[np.int64], levels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    counts = np.bincount(class_ids * _LEVELS + levels, minlength=(classes + 1) * _LEVELS)
    return counts.reshape(classes + 1, _LEVELS)[1:]


def _scale_to_image(
    values: NDArray[np.floating], sample: Mapping[str, Any], input_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return a map in the size of the image, from 0 to 1 in what the network saw; 0 elsewhere, or if it is constant."""
    resized, valid = upsample_to_image(values, dict(sample), input_size), valid_region(dict(sample), input_size)
    low, high = resized[valid].min(), resized[valid].max()
    if not (np.isfinite(high - low) and high > low):
        return np.zeros_like(resized)
    return np.where(valid, (resized - low) / (high - low), 0).astype(np.float32)


def class_ious(sums: Mapping[str, NDArray[np.float64]], threshold_index: int) -> NDArray[np.float64]:
    """Compute the IoU of background and of each class in %, over all pixels together.

    Args:
        sums: of ``count_pixels``, [R, …].
        threshold_index: in ``MASK_THRESHOLDS``.

    Returns:
        [R, 1 + C]; NaN for a class that is neither in the truth nor predicted.
    """
    above = slice(threshold_index + 1, None)
    hits, predicted = (sums[name][..., above].sum(-1) for name in ("hits", "predicted"))
    background = sums["background"][..., : threshold_index + 1].sum(-1)
    hits = np.concatenate([background[:, None], hits], 1)
    predicted_background = sums["truth"].sum(-1) - predicted.sum(-1)
    predicted = np.concatenate([predicted_background[:, None], predicted], 1)
    union = sums["truth"] + predicted - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * hits / np.where(union > 0, union, np.nan)


def mean_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the values along the last axis that are not NaN; NaN if there are none."""
    is_defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(is_defined, values, 0).sum(-1) / is_defined.sum(-1)


def best_threshold(sums: Mapping[str, NDArray[np.float64]]) -> int | None:
    """Return the index of the threshold with the largest mean IoU, the middle one of several; None without pixels.

    Args:
        sums: of ``count_pixels``, [1, …].
    """
    if not sums["truth"].any():
        return None
    curve = np.array([mean_defined(class_ious(sums, index))[0] for index in range(len(MASK_THRESHOLDS))])
    best = np.flatnonzero(curve == curve.max())
    return int(best[len(best) // 2])
