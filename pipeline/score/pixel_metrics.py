"""Pixels of weakly supervised localization: PxAP, the pointing game, energy, and masks as ImageNet-S measures them.

A map s in [0, 1] and a true mask, both 224 × 224. What the truth ignores counts nowhere.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.image.score_map import SIDE
from pipeline.score.box_metrics import TAUS

BINS = len(TAUS) + 1
"""Of scores: from each threshold to the next, and those that are 1."""
MASK_TAUS: NDArray[np.float64] = TAUS[::10]
"""Thresholds of masks; an object pixel is at or above."""
SIZES = (0.05, 0.25, 0.5)
"""Shares of the picture up to which objects are S, MS, ML; larger ones are L."""
_EDGES = np.append(TAUS, [1.0, 2.0])

Mask = NDArray[np.bool_]


def histogram(score: NDArray[np.float64], mask: Mask, ignore: Mask) -> NDArray[np.int64]:
    """How often each score is that of an object pixel, and that of a background pixel.

    Args:
        score: float [224, 224] in [0, 1].
        mask: bool [224, 224], union of the objects.
        ignore: bool [224, 224], pixels that do not count where they are not in the mask.

    Returns:
        int [2, 1001]: object, background.
    """
    bins = (score * len(TAUS)).astype(np.int64)
    bins -= score < _EDGES[bins]  # to the very bin of the reference's edges, which are rounded
    bins += score >= _EDGES[bins + 1]
    kind = np.where(mask, 0, np.where(ignore, 2, 1))
    return np.bincount((bins + BINS * kind).ravel(), minlength=3 * BINS)[: 2 * BINS].reshape(2, BINS)


def pxap(counts: NDArray[np.floating]) -> NDArray[np.float64]:
    """PxAP in %, Σ P(τ) · ΔR(τ) from the highest threshold down (Choe et al., CVPR 2020, section 4.2).

    Args:
        counts: [..., 2, 1001], sums of ``histogram``.

    Returns:
        [...]; NaN where there is no object pixel.
    """
    precision, recall = precision_recall(counts)
    return 100 * (precision * np.diff(recall[..., ::-1], prepend=0)[..., ::-1]).sum(-1)


def precision_recall(counts: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the pixels from each bin on: [..., bins] each, in [0, 1]. Precision of no pixel is 0, recall of none NaN.

    Args:
        counts: [..., 2, bins] of object and background pixels.
    """
    found, wrong = _from_top(counts)
    with np.errstate(invalid="ignore"):
        return found / np.maximum(found + wrong, 1), found / found[..., :1]


def iou(counts: NDArray[np.floating]) -> NDArray[np.float64]:
    """IoU of the object in % at each threshold, all pixels together: [..., bins], NaN without an object pixel.

    Args:
        counts: [..., 2, bins] of object and background pixels.
    """
    found, wrong = _from_top(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * found / np.where(found[..., :1] > 0, found[..., :1] + wrong, np.nan)


def f_beta(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """F of one picture, β² = 0.3, at each threshold: [bins] in [0, 1]. 0 where nothing is found.

    (1 + β²) P R / (β² P + R) = (1 + β²) TP / (found + β² true).
    """
    found, wrong = _from_top(counts)
    return 1.3 * found / np.maximum(found + wrong + 0.3 * found[0], 1e-9)


def _from_top(counts: NDArray[np.number]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    above = counts[..., ::-1].cumsum(-1)[..., ::-1]
    return above[..., 0, :], above[..., 1, :]


def coarse(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """A histogram [2, 1001] by ``MASK_TAUS``: [2, 100]."""
    return np.add.reduceat(counts, np.arange(0, BINS - 1, 10), axis=1)


def size_of(mask: Mask) -> int:
    """Bucket of the share of the picture that is object: 0 to 3 (S, MS, ML, L)."""
    return int(np.searchsorted(SIZES, mask.mean()))


def pointing(score: NDArray[np.float64], mask: Mask, ignore: Mask) -> float:
    """The pointing game (Zhang et al., IJCV 2018): the share of the map's maxima that lie in the object, in [0, 1].

    One maximum is a hit or a miss; several, as a constant map has, count as a draw among them.
    """
    counted = mask | ~ignore
    peak = counted & (score == score[counted].max())
    return float((peak & mask).sum() / peak.sum())


def energy(score: NDArray[np.float64], mask: Mask, ignore: Mask) -> float:
    """The share of the map that lies in the object (Wang et al., Score-CAM, CVPRW 2020), in [0, 1].

    That of a map without any is the object's share of the picture, as of every constant.
    """
    counted = mask | ~ignore
    weights = score if score[counted].any() else np.ones((SIDE, SIDE))
    return float(weights[mask].sum() / weights[counted].sum())
