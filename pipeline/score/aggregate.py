"""From counts to scores: the same formulas for the estimate and for each replicate of the bootstrap."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.score import pixel_metrics, segmentation_metrics
from pipeline.score.box_metrics import LEVELS, TAUS
from pipeline.score.counters import ALL, FIXED, HITS, REST, TUNING, VALUES, Tally
from pipeline.score.pixel_metrics import MASK_TAUS
from pipeline.score.trivial_boxes import TRIVIAL
from schemas.scores import SCORES

Counts = Mapping[str, NDArray[np.float64]]
"""Sums of a tally with a leading axis [L]: one of the estimate, or one for each replicate."""

_LARGEST, _ANY = HITS.index("largest50"), slice(0, 3)
_FIFTH = int(np.searchsorted(LEVELS, np.searchsorted(TAUS, 0.2), side="right")) - 1
REPLICATES = 1000
WEIGHTS: NDArray[np.float64] = np.random.default_rng(0).poisson(1, (REPLICATES, TUNING.stop)).astype(np.float64)
"""How often each group stands in each replicate of the Poisson bootstrap."""


@dataclass(frozen=True)
class Chosen:
    """Thresholds, as indices: ``box`` and ``v2`` (for IoU 0.3, 0.5, 0.7) of cuts, ``mask`` of ``MASK_TAUS``."""

    box: int
    v2: tuple[int, ...]
    mask: int | None


def choose(counts: Counts) -> Chosen | None:
    """The best thresholds for some pictures [1, …]; None where there are none."""
    if not counts["images"][0]:
        return None
    hits = counts["hits"][0]
    overlap = pixel_metrics.iou(counts["sizes"][0].sum(0))
    mask = None if np.isnan(overlap).any() else _best(overlap)
    return Chosen(_best(hits[_LARGEST]), tuple(_best(each) for each in hits[_ANY]), mask)


def _best(curve: NDArray[np.float64]) -> int:
    """The middle one of the thresholds that do best: of few pictures there are many."""
    best = np.flatnonzero(curve == curve.max())
    return int(best[len(best) // 2])


def scores(every: Counts, rest: Counts, chosen: Chosen | None) -> dict[str, NDArray[np.float64]]:
    """All ``SCORES`` in %, [L] each, NaN where there is none.

    Args:
        every: of all pictures.
        rest: of those that the thresholds were not chosen on.
        chosen: the thresholds.
    """
    result = {name: np.full(len(every["images"]), np.nan) for name in SCORES}
    with np.errstate(divide="ignore", invalid="ignore"):
        boxes = 100 * every["hits"] / every["images"][:, None, None]
        terms = boxes[:, _ANY].max(-1)
        overlap = pixel_metrics.iou(every["sizes"].sum(1))
        result |= {
            "pxap": pixel_metrics.pxap(every["pixels"]),
            "maxboxacc": boxes[:, _LARGEST].max(-1),
            "maxboxacc_v2": terms.mean(-1),
            **dict(zip(("iou30", "iou50", "iou70"), terms.T, strict=True)),
            "gt_known_20": boxes[:, _LARGEST, _FIFTH],
            "seg_accuracy": segmentation_metrics.accuracy(every["areas"]),
            "seg_miou": segmentation_metrics.mean_iou(every["areas"]),
            "iou_oracle": overlap.max(-1),
            "f_beta_oracle": _mean(every["f_beta"], every["masks"]).max(-1),
        }
        means = {"seg_map": "masks", "seg_f1": "masks", "pointing": "objects", "energy": "objects"}
        for name, of in means.items():
            result[name] = _mean(every["values"], every[of])[:, VALUES.index(name)]
        if chosen is not None:
            boxes = 100 * rest["hits"] / rest["images"][:, None, None]
            result["gt_known"] = boxes[:, _LARGEST, chosen.box]
            for name, hits in (("top1_loc", "top1"), ("top5_loc", "top5")):
                result[name] = np.where(rest["labelled"] > 0, boxes[:, HITS.index(hits), chosen.box], np.nan)
            result["boxacc_v2"] = boxes[:, [0, 1, 2], list(chosen.v2)].mean(-1)
        if chosen is not None and chosen.mask is not None:
            result["iou"] = pixel_metrics.iou(rest["sizes"].sum(1))[:, chosen.mask]
            result["f_beta"] = _mean(rest["f_beta"], rest["masks"])[:, chosen.mask]
            by_size = pixel_metrics.iou(rest["sizes"])[..., chosen.mask]
            result |= dict(zip(("iou_s", "iou_ms", "iou_ml", "iou_l"), by_size.T, strict=True))
    return result


def _mean(sums: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    return 100 * sums / FIXED / count[:, None]


def row(method: str, target: str, tally: Tally) -> dict[str, Any]:
    """Scores of one method, their intervals and thresholds: the columns of ``schemas.scores.LOCALIZATION`` by name."""
    every, rest = tally.sums(ALL), tally.sums(REST)
    chosen, oracle = choose(tally.sums(TUNING)), choose(every)
    estimate = scores(every, rest, chosen)
    replicates = scores(tally.sums(ALL, WEIGHTS), tally.sums(REST, WEIGHTS), chosen)
    undefined = {"top5_loc"} if target == "predicted" else set()  # the label's own map is another one
    undefined |= {"gt_known_20"} if method in TRIVIAL else set()  # a box has no maximum
    values = {name: None if name in undefined else _number(value[0]) for name, value in estimate.items()}
    intervals = {name: None if values[name] is None else interval(replicates[name]) for name in SCORES}
    taus = {} if method in TRIVIAL else _taus(chosen, "") | _taus(oracle, "_oracle")
    counted = {
        "images": int(every["images"][0]),
        "masks": int(every["masks"][0]),
        "test_images": int(rest["images"][0]),
        "tuning_images": int(tally.sums(TUNING)["images"][0]),
    }
    return counted | values | {"interval": intervals} | taus


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def interval(values: NDArray[np.float64]) -> list[float] | None:
    """From 2.5 to 97.5 % of the replicates; None where no replicate has a value."""
    values = values[np.isfinite(values)]  # a replicate of few pictures may have none
    return [float(each) for each in np.percentile(values, [2.5, 97.5])] if len(values) else None


def _taus(chosen: Chosen | None, suffix: str) -> dict[str, Any]:
    if chosen is None:
        return {}
    return {
        f"threshold{suffix}": float(TAUS[LEVELS[chosen.box]]),
        f"v2_thresholds{suffix}": [float(TAUS[LEVELS[each]]) for each in chosen.v2],
        f"mask_threshold{suffix}": None if chosen.mask is None else float(MASK_TAUS[chosen.mask]),
    }
