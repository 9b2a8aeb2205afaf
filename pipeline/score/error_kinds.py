"""Kinds of localization errors, as TS-CAM splits them (Gao et al., ICCV 2021).

The thresholds are those of the authors' evaluator, ``cls_loc_err`` and ``get_badcase_detail`` in ``lib/cams_deit.py``.
Let p be the box of the largest contour, g₁ … gₘ the true boxes and g the one of these with the largest IoU with p, the
first one on a tie. Areas are in pixels of the 224 × 224 grid, ends inclusive. The first that applies is the kind:

1. ``classification``: the label is not the prediction with the highest logit, or the image has no label;
2. ``correct``: IoU(p, g) ≥ 0.5;
3. ``multi_instance``: |p ∩ gᵢ| / |gᵢ| > 0.3 for two or more i: the box covers several objects;
4. ``part``: |p ∩ g| / |p| > 0.5: most of the box lies in the object, which it covers too little of;
5. ``more``: |p ∩ g| / |g| ≥ 0.7: the box covers most of the object, and too much beside it;
6. ``other``.

So each image has one kind, and the correct ones are those of Top-1 localization. The authors' evaluator takes IoU > 0.5
as correct, where all of this package takes ≥; an IoU of exactly 0.5 is the only difference.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.image.iou import box_intersection, box_iou
from pipeline.truth.truth import Boxes
from schemas.scores import ERROR_KINDS

CORRECT_IOU = 0.5
INSTANCE_COVERAGE = 0.3
PART_INSIDE = 0.5
MORE_COVERAGE = 0.7


def box_error_kinds(boxes: Boxes, truth: Boxes) -> NDArray[np.int64]:
    """Return the kind of each predicted box, of an image whose label is the prediction.

    Args:
        boxes: int [n, 4] as x0, y0, x1, y1, ends inclusive.
        truth: int [m, 4] on the same grid, m ≥ 1.

    Returns:
        int [n], indices of ``schemas.scores.ERROR_KINDS``; none is ``classification``.
    """
    ious = box_iou(boxes, truth)
    shared, areas, true_areas = box_intersection(boxes, truth)
    covered = shared / true_areas
    best = ious.argmax(1)[:, None]
    inside = np.take_along_axis(shared / areas[:, None], best, 1)[:, 0]
    conditions = {
        "correct": ious.max(1) >= CORRECT_IOU,
        "multi_instance": (covered > INSTANCE_COVERAGE).sum(1) > 1,
        "part": inside > PART_INSIDE,
        "more": np.take_along_axis(covered, best, 1)[:, 0] >= MORE_COVERAGE,
    }
    kinds = [ERROR_KINDS.index(kind) for kind in conditions]
    return np.select(list(conditions.values()), kinds, ERROR_KINDS.index("other"))
