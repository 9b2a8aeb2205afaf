"""Scores from counts: the same formulas for the estimate and for each replicate of the bootstrap."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.score import pixel_metrics, segmentation_metrics
from pipeline.score.box_metrics import BOX_THRESHOLDS
from pipeline.score.counters import (
    ALL_GROUPS,
    BOX_ERRORS,
    FIXED_POINT_SCALE,
    GROUPS,
    HIT_NAMES,
    IMAGE_SCORES,
    TESTED_GROUPS,
    TUNING_GROUPS,
    ScoreCounts,
)
from pipeline.score.pixel_metrics import MASK_THRESHOLDS
from pipeline.score.threshold_grid import ThresholdGrid
from pipeline.utils.bootstrap import percentile_interval, poisson_weights
from schemas.scores import ERROR_KINDS, SCORES

CountSums = Mapping[str, NDArray[np.float64]]
"""``ScoreCounts.sums``, with a leading axis [R]: one of the estimate, or one for each replicate."""

_LARGEST, _ANY = HIT_NAMES.index("largest50"), slice(0, 3)
LEVEL_20 = int(np.searchsorted(BOX_THRESHOLDS, 0.2, side="right")) - 1
"""Index in ``BOX_THRESHOLDS`` of 0.2 of the maximum."""
_OF_NETWORK = frozenset({"top1_cls", "top5_cls"})
_OF_LABELS = frozenset({"top1_loc", "top5_loc", *(f"error_{kind}" for kind in ERROR_KINDS[1:])})
WEIGHTS = poisson_weights(np.random.default_rng(0), GROUPS)
"""float [REPLICATES, GROUPS], how often each replicate of the bootstrap contains each group."""


@dataclass(frozen=True)
class ChosenThresholds:
    """Indices of thresholds.

    Attributes:
        box: in ``BOX_THRESHOLDS``.
        v2: in ``BOX_THRESHOLDS``, for IoU 0.3, 0.5 and 0.7.
        mask: in ``MASK_THRESHOLDS``; None without masks.
    """

    box: int
    v2: tuple[int, ...]
    mask: int | None


def choose_thresholds(counts: CountSums, grid: ThresholdGrid) -> ChosenThresholds | None:
    """Return the best thresholds of a grid for some images, from sums [1, …]; None if there are no images."""
    if not counts["images"][0]:
        return None
    hits = counts["hits"][0][:, grid.levels]
    box, v2 = _best_index(hits[_LARGEST]), [_best_index(curve) for curve in hits[_ANY]]
    ious = pixel_metrics.iou_by_threshold(counts["sizes"][0].sum(0))
    mask = None if np.isnan(ious).any() else _best_index(ious)
    return ChosenThresholds(int(grid.levels[box]), tuple(grid.levels[v2].tolist()), mask)


def _best_index(curve: NDArray[np.float64]) -> int:
    """Return the middle one of the best thresholds: with few images there are many."""
    best = np.flatnonzero(curve == curve.max())
    return int(best[len(best) // 2])


def compute_scores(
    total: CountSums, tested: CountSums, chosen: ChosenThresholds | None, grid: ThresholdGrid
) -> dict[str, NDArray[np.float64]]:
    """Compute all ``SCORES`` in %, [R] each, NaN if undefined.

    Args:
        total: sums over all images.
        tested: sums over the images outside the tuning split.
        chosen: thresholds chosen on the tuning split.
        grid: thresholds of boxes and of PxAP.
    """
    scores = {name: np.full(len(total["images"]), np.nan) for name in SCORES}
    with np.errstate(divide="ignore", invalid="ignore"):
        all_levels = 100 * total["hits"] / total["images"][:, None, None]
        box_accuracy = all_levels[..., grid.levels]
        best_accuracy = box_accuracy[:, _ANY].max(-1)
        scores |= {
            "pxap": pixel_metrics.pxap(grid.coarsen(total["pixels"])),
            "maxboxacc": box_accuracy[:, _LARGEST].max(-1),
            "maxboxacc_v2": best_accuracy.mean(-1),
            **dict(zip(("iou30", "iou50", "iou70"), best_accuracy.T, strict=True)),
            "gt_known_20": all_levels[:, _LARGEST, LEVEL_20],
            "top1_cls": 100 * total["top1"] / total["labelled"],
            "top5_cls": 100 * total["top5"] / total["labelled"],
            "seg_accuracy": segmentation_metrics.pixel_accuracy(total["confusion"]),
            "seg_miou": segmentation_metrics.mean_iou(total["confusion"]),
            "iou_oracle": pixel_metrics.iou_by_threshold(total["sizes"].sum(1)).max(-1),
            "f_beta_oracle": _mean(total["f_beta"], total["masks"]).max(-1),
        }
        denominators = {"seg_map": "masks", "seg_f1": "masks", "pointing": "objects", "energy": "objects"}
        for name, denominator in denominators.items():
            scores[name] = _mean(total["image_scores"], total[denominator])[:, IMAGE_SCORES.index(name)]
        if chosen is not None:
            box_accuracy = 100 * tested["hits"] / tested["images"][:, None, None]
            scores["gt_known"] = box_accuracy[:, _LARGEST, chosen.box]
            of_labels = {name: box_accuracy[:, HIT_NAMES.index(name), chosen.box] for name in ("top1", "top5")}
            of_labels = {f"{name}_loc": accuracy for name, accuracy in of_labels.items()}
            of_labels["error_classification"] = 100 - 100 * tested["top1"] / tested["images"]
            errors = 100 * tested["errors"][..., chosen.box] / tested["images"][:, None]
            of_labels |= {f"error_{kind}": share for kind, share in zip(BOX_ERRORS, errors.T, strict=True)}
            scores |= {name: np.where(tested["labelled"] > 0, value, np.nan) for name, value in of_labels.items()}
            scores["boxacc_v2"] = box_accuracy[:, [0, 1, 2], list(chosen.v2)].mean(-1)
        if chosen is not None and chosen.mask is not None:
            scores["iou"] = pixel_metrics.iou_by_threshold(tested["sizes"].sum(1))[:, chosen.mask]
            scores["f_beta"] = _mean(tested["f_beta"], tested["masks"])[:, chosen.mask]
            by_size = pixel_metrics.iou_by_threshold(tested["sizes"])[..., chosen.mask]
            scores |= dict(zip(("iou_s", "iou_ms", "iou_ml", "iou_l"), by_size.T, strict=True))
    return scores


def _mean(sums: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    return 100 * sums / FIXED_POINT_SCALE / count[:, None]


@dataclass(frozen=True, eq=False)
class MethodScores:
    """The scores of one method.

    Attributes:
        columns: of ``schemas.scores.LOCALIZATION``: scores with intervals, thresholds, numbers of images.
        replicates: float [REPLICATES] of each score that is defined, in the bootstrap; NaN where a replicate is not.
    """

    columns: dict[str, Any]
    replicates: dict[str, NDArray[np.float64]]


def score_method(
    target_kind: str | None, score_counts: ScoreCounts, grid: ThresholdGrid = ThresholdGrid(), has_maps: bool = True
) -> MethodScores:
    """Return the scores of one method.

    Args:
        target_kind: of its maps; None if it is not known, and scores that need it are null.
        score_counts: of all its images.
        grid: thresholds of boxes and of PxAP. Where there are no maps, all levels count, whatever the grid.
        has_maps: it has maps or masks; otherwise a box for each image, or for each level, and no threshold.
    """
    grid = grid if has_maps else ThresholdGrid()
    total, tested = score_counts.sums(ALL_GROUPS), score_counts.sums(TESTED_GROUPS)
    tuning = score_counts.sums(TUNING_GROUPS)
    chosen, oracle = choose_thresholds(tuning, grid), choose_thresholds(total, grid)
    estimate = compute_scores(total, tested, chosen, grid)
    replicates = compute_scores(
        score_counts.sums(ALL_GROUPS, WEIGHTS), score_counts.sums(TESTED_GROUPS, WEIGHTS), chosen, grid
    )
    undefined = frozenset[str]()
    if target_kind != "label":  # a label that is not the prediction has another map
        undefined = frozenset({"top5_loc"}) if has_kinds_of_errors(target_kind) else _OF_LABELS
    undefined |= _OF_NETWORK if target_kind is None else frozenset()  # the network is not known
    undefined |= frozenset() if has_maps else {"gt_known_20"}  # a box has no maximum
    values = {
        name: float(value[0]) if name not in undefined and np.isfinite(value[0]) else None
        for name, value in estimate.items()
    }
    intervals = {name: None if values[name] is None else percentile_interval(replicates[name]) for name in SCORES}
    thresholds = _thresholds(chosen, grid, "") | _thresholds(oracle, grid, "_oracle") if has_maps else {}
    image_counts = {
        "images": int(total["images"][0]),
        "masks": int(total["masks"][0]),
        "test_images": int(tested["images"][0]),
        "tuning_images": int(tuning["images"][0]),
        "degenerate": int(total["degenerate"][0]) if has_maps else None,
    }
    columns = image_counts | values | {"interval": intervals} | thresholds
    return MethodScores(columns, {name: replicates[name] for name, value in values.items() if value is not None})


def has_kinds_of_errors(target_kind: str | None) -> bool:
    """Return whether the map of an image whose label is the prediction is that of the label."""
    return target_kind in ("label", "predicted", "top:1")


def _thresholds(chosen: ChosenThresholds | None, grid: ThresholdGrid, suffix: str) -> dict[str, Any]:
    if chosen is None:
        return {}
    return {
        f"threshold{suffix}": grid.threshold_of(chosen.box),
        f"v2_thresholds{suffix}": [grid.threshold_of(level) for level in chosen.v2],
        f"mask_threshold{suffix}": None if chosen.mask is None else float(MASK_THRESHOLDS[chosen.mask]),
    }
