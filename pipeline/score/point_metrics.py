"""Open vocabulary on points: p-mIoU of the maps of classes (Benenson & Ferrari, arXiv 2210.14142; LeGrad, ICCV 2025).

Of each image, the classes count that have a ``yes`` point there. A map is resized bilinearly and scaled to [0, 1] as
for ImageNet-Segmentation; a point is foreground where the map is above 0.5. A ``yes`` point is a hit (TP) or a miss
(FN), a ``no`` point of the same class in the foreground is a false alarm (FP). LeGrad's evaluation code is not public:
how it sums is not known, so there are two scores.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.image.score_map import SIDE, Window
from pipeline.score.counters import FIXED_POINT_SCALE, Shapes, to_fixed_point
from pipeline.score.segmentation_metrics import linear_map

THRESHOLD = 0.5


def point_shapes(classes: int) -> Shapes:
    """Return the counts of points: of each class ``tp``, ``fp``, ``fn``; of pairs of image and class; their IoUs."""
    per_class = dict.fromkeys(("tp", "fp", "fn"), (classes,))
    return {"images": (), "pairs": (), "pair_ious": (), "outside": (), **per_class}


def count_points(
    maps: Mapping[int, NDArray[np.floating]],
    class_ids: NDArray[np.integer],
    points: NDArray[np.float64],
    is_yes: NDArray[np.bool_],
    window: Window,
    classes: int,
) -> dict[str, ArrayLike]:
    """Return the counts of one image.

    Args:
        maps: float [h, w] of each class that has a ``yes`` point, any scale.
        class_ids: int [n], class of each point.
        points: float [n, 2], x and y as fractions of the image.
        is_yes: bool [n].
        window: part of the image that the maps cover; points outside do not count.
        classes: number of classes.
    """
    x0, y0, x1, y1 = window
    x, y = points.T
    is_inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    column, row = (np.minimum((part * SIDE).astype(np.int64), SIDE - 1) for part in (x, y))
    tp, fp, fn = (np.zeros(classes, np.int64) for _ in range(3))
    pair_ious = 0.0
    outside = 0
    for class_id, values in maps.items():
        is_of_class = class_ids == class_id
        outside += int((is_of_class & ~is_inside).sum())
        counted = is_of_class & is_inside
        is_found = linear_map(values, window)[row[counted], column[counted]] > THRESHOLD
        positive = is_yes[counted]
        tp[class_id], fn[class_id] = (positive & is_found).sum(), (positive & ~is_found).sum()
        fp[class_id], tn = (~positive & is_found).sum(), int((~positive & ~is_found).sum())
        wrong = fp[class_id] + fn[class_id]
        pair_ious += sum(hits / max(1, hits + wrong) for hits in (tp[class_id], tn)) / 2
    pairs: dict[str, ArrayLike] = {"pairs": len(maps), "pair_ious": to_fixed_point(pair_ious)}
    return pairs | {"images": 1, "outside": outside, "tp": tp, "fp": fp, "fn": fn}


def class_ious(sums: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Compute TP / (TP + FP + FN) of each class in %: [R, C]; NaN for a class without a ``yes`` point."""
    hits = sums["tp"]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * hits / np.where(hits + sums["fn"] > 0, hits + sums["fp"] + sums["fn"], np.nan)


def pair_miou(sums: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Compute the mean of foreground and background IoU over pairs of image and class in %: [R].

    An IoU of nothing is 0, as in the code of others that this form is of.
    """
    with np.errstate(invalid="ignore"):
        return 100 * sums["pair_ious"] / FIXED_POINT_SCALE / sums["pairs"]
