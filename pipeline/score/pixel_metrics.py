"""Pixel metrics of weakly supervised localization: PxAP, the pointing game, energy, and IoU and F-beta of masks.

All take a map s in [0, 1] and a true mask, both 224 × 224. Pixels that the truth ignores do not count.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.image.score_map import SIDE
from pipeline.score.box_metrics import THRESHOLDS
from pipeline.truth.truth import Mask

BINS = len(THRESHOLDS) + 1
"""Bins of scores: from each threshold to the next, and one for scores of 1."""
MASK_THRESHOLDS: NDArray[np.float64] = THRESHOLDS[::10]
"""Thresholds of masks; an object pixel is at or above."""
SIZE_LIMITS = (0.05, 0.25, 0.5)
"""Shares of the image up to which objects are S, MS, ML; larger ones are L."""
_EDGES = np.append(THRESHOLDS, [1.0, 2.0])


def score_histogram(score: NDArray[np.float64], mask: Mask, ignore: Mask) -> NDArray[np.int64]:
    """Return histograms of the scores of object pixels and of background pixels.

    Args:
        score: float [224, 224] in [0, 1].
        mask: bool [224, 224], union of the objects.
        ignore: bool [224, 224], pixels that do not count unless they are in the mask.

    Returns:
        int [2, 1001]: object, background.
    """
    bins = (score * len(THRESHOLDS)).astype(np.int64)
    bins -= score < _EDGES[bins]  # exactly the bin of the reference, whose edges are rounded
    bins += score >= _EDGES[bins + 1]
    kind = np.where(mask, 0, np.where(ignore, 2, 1))
    return np.bincount((bins + BINS * kind).ravel(), minlength=3 * BINS)[: 2 * BINS].reshape(2, BINS)


def pxap(counts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute PxAP in %, Σ P(τ) · ΔR(τ) from the highest threshold τ down (Choe et al., CVPR 2020, section 4.2).

    Args:
        counts: [..., 2, 1001], sums of ``score_histogram``.

    Returns:
        [...]; NaN if there is no object pixel.
    """
    precision, recall = precision_recall(counts)
    return 100 * (precision * np.diff(recall[..., ::-1], prepend=0)[..., ::-1]).sum(-1)


def precision_recall(counts: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute precision and recall of the pixels in each bin and above.

    Args:
        counts: [..., 2, bins] of object and background pixels.

    Returns:
        [..., bins] each, in [0, 1]. Precision is 0 if no pixel is found, recall NaN if there is no object pixel.
    """
    hits, misses = _cumulate_from_top(counts)
    with np.errstate(invalid="ignore"):
        return hits / np.maximum(hits + misses, 1), hits / hits[..., :1]


def iou_by_threshold(counts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the IoU of the object in % at each threshold, over all pixels together.

    Args:
        counts: [..., 2, bins] of object and background pixels.

    Returns:
        [..., bins]; NaN if there is no object pixel.
    """
    hits, misses = _cumulate_from_top(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * hits / np.where(hits[..., :1] > 0, hits[..., :1] + misses, np.nan)


def f_beta(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Compute the F-measure of one image, β² = 0.3, at each threshold: [bins] in [0, 1], 0 without a hit.

    (1 + β²) P R / (β² P + R) = (1 + β²) TP / (predicted + β² true).

    Args:
        counts: [2, bins] of object and background pixels.
    """
    hits, misses = _cumulate_from_top(counts)
    return 1.3 * hits / np.maximum(hits + misses + 0.3 * hits[0], 1e-9)


def _cumulate_from_top(counts: NDArray[np.number]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    cumulated = counts[..., ::-1].cumsum(-1)[..., ::-1]
    return cumulated[..., 0, :], cumulated[..., 1, :]


def coarsen(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a histogram [2, 1001] with the bins of ``MASK_THRESHOLDS``: [2, 100]."""
    return np.add.reduceat(counts, np.arange(0, BINS - 1, 10), axis=1)


def size_class(mask: Mask) -> int:
    """Return the size class of the objects of an image: 0 to 3 (S, MS, ML, L)."""
    return int(np.searchsorted(SIZE_LIMITS, mask.mean()))


def pointing_game(score: NDArray[np.float64], mask: Mask, ignore: Mask) -> float:
    """Compute the pointing game (Zhang et al., IJCV 2018): the share of the map's maxima that lie in the object.

    One maximum is a hit or a miss. Several, as in a constant map, count as a random choice among them.

    Args:
        score: float [224, 224] in [0, 1].
        mask: bool [224, 224], union of the objects.
        ignore: bool [224, 224], pixels that do not count unless they are in the mask.
    """
    counted = mask | ~ignore
    peak = counted & (score == score[counted].max())
    return float((peak & mask).sum() / peak.sum())


def energy(score: NDArray[np.float64], mask: Mask, ignore: Mask) -> float:
    """Compute the share of the map that lies in the object (Wang et al., Score-CAM, CVPRW 2020), in [0, 1].

    A map of zeros counts as a constant one, whose share is that of the object in the image.

    Args:
        score: float [224, 224] in [0, 1].
        mask: bool [224, 224], union of the objects.
        ignore: bool [224, 224], pixels that do not count unless they are in the mask.
    """
    counted = mask | ~ignore
    weights = score if score[counted].any() else np.ones((SIDE, SIDE))
    return float(weights[mask].sum() / weights[counted].sum())
