"""Scores of an atlas: what they were made by, and their tables."""

import pyarrow as pa

from schemas.base import Record
from schemas.run import TargetKind

PROTOCOL = 3
"""Version of the formulas and of what is counted. Counts of another one are made again."""

SCORES = (
    "pxap",
    "maxboxacc",
    "maxboxacc_v2",
    "iou30",
    "iou50",
    "iou70",
    "gt_known",
    "boxacc_v2",
    "top1_loc",
    "top5_loc",
    "gt_known_20",
    "seg_accuracy",
    "seg_miou",
    "seg_map",
    "seg_f1",
    "iou",
    "f_beta",
    "iou_s",
    "iou_ms",
    "iou_ml",
    "iou_l",
    "iou_oracle",
    "f_beta_oracle",
    "pointing",
    "energy",
)
"""Scores, all in %, null where the truth does not support them (masks) or the target does not define them.

Of all pictures. A threshold is the best on these very pictures: comparable with the literature, an upper bound,
and nothing that anybody could have chosen.

- ``pxap`` – area under precision over recall of all pixels together (Choe et al., CVPR 2020).
- ``maxboxacc`` – BoxAcc at IoU 0.5, box of the largest contour. ``maxboxacc_v2`` – box of any contour, mean of
  ``iou30``, ``iou50``, ``iou70``, each at its own threshold (the same authors).
- ``gt_known_20`` – the box of the largest contour above 0.2 of the maximum, IoU 0.5 (Zhou et al., CVPR 2016).
- ``seg_accuracy``, ``seg_miou``, ``seg_map``, ``seg_f1`` – ImageNet-Segmentation as Chefer et al. (CVPR 2021) measure
  it: bilinear map, foreground above its own mean, accuracy and mIoU of object and background over all pixels
  together, AP and F1 mean over the pictures.
- ``iou_oracle``, ``f_beta_oracle`` – of object pixels, IoU over all pixels together, F (β² = 0.3) mean over the
  pictures, as ImageNet-S (Gao et al., TPAMI 2022) has them, without classes.
- ``pointing`` – maxima of the map that lie in the object. ``energy`` – share of the map that does. Means over the
  pictures with object pixels.

Of the pictures that are not in the tuning split, at thresholds chosen on it: what one gets.

- ``gt_known`` – as ``maxboxacc``. ``top1_loc``, ``top5_loc`` – and the label is among the first 1 or 5 predictions;
  a picture without a label is a miss, and they are null where none has one.
  ``boxacc_v2`` – as ``maxboxacc_v2``.
- ``iou``, ``f_beta`` – as the oracles. ``iou_s``, ``iou_ms``, ``iou_ml``, ``iou_l`` – of the pictures in which the
  objects take up to 5, 25, 50 and 100 %.
"""

CONTROLS = ("center", "uniform", "random", "edges", "whole image", "centred square")
"""Methods and predictors that know less than any method should."""


def is_control(name: str) -> bool:
    """Whether a name is that of a control, with or without options."""
    return any(name == each or name.startswith(f"{each}_") for each in CONTROLS)


LOCALIZATION = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("classifier", pa.string(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("images", "masks", "tested", "tuned_on")),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("without_maps", "without_object")),
        *(pa.field(name, pa.float64()) for name in SCORES),
        *(pa.field(name, pa.float64()) for name in ("tau", "tau_oracle", "mask_tau", "mask_tau_oracle")),
        *(pa.field(name, pa.list_(pa.float64(), 3)) for name in ("v2_taus", "v2_taus_oracle")),
        pa.field("interval", pa.struct([pa.field(name, pa.list_(pa.float64(), 2)) for name in SCORES])),
    ]
)
"""One row a method, best PxAP first. Columns beside ``SCORES``:

- ``method`` – its name, with options. ``kind`` – ``method`` or ``control``. ``target`` – whose maps. ``classifier`` –
  name of the network and the first 12 digits of the hash of its weights: it decides Top-1, and every other number.
- ``images`` – that were scored. ``masks`` – of them, those that have true masks. ``tuned_on`` – pictures of the tuning
  split, ``tested`` – those that are not in it. ``without_maps``, ``without_object`` – pictures with truth that could
  not be.
- ``tau``, ``v2_taus``, ``mask_tau`` – the thresholds that were chosen on the split, for boxes, for IoU 0.3, 0.5 and
  0.7, and for pixels. ``tau_oracle``, ``v2_taus_oracle``, ``mask_tau_oracle`` – those that are best on all pictures.
- ``interval`` – of each score from 2.5 to 97.5 % of the bootstrap, thresholds as they were chosen.
"""

CURVES = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("curve", pa.string(), nullable=False),
        pa.field("tau", pa.float64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("recall", pa.float64()),
    ]
)
"""Curves over the threshold, of all pictures, in %.

- ``method`` – its name, with options. ``tau`` – the threshold.
- ``curve`` – ``largest50``, BoxAcc at IoU 0.5 of the largest contour; ``any30``, ``any50``, ``any70``, of any contour;
  ``precision``, of the pixels at or above the threshold.
- ``value`` – of the curve. ``recall`` – of these pixels, beside their precision.
"""


class Tuned(Record):
    """Where thresholds are chosen.

    Attributes:
        truth: digest of the truth that names the pictures; None: by the hash of their keys.
        atlas: hash of the run that they are mapped by, where it is another.
        keys: digest of their keys.
    """

    truth: str | None = None
    atlas: str | None = None
    keys: str


class ScoresRecord(Record):
    """``about.json`` of a folder of scores: what is scored by what. Written first.

    Attributes:
        run: hash of the run that made the atlas.
        truth, name: digest of the truth, and what it is called.
        protocol: version of the formulas.
        target: whose maps.
        subset: only pictures that both have.
        tuning: where thresholds are chosen.
    """

    protocol: int = PROTOCOL
    run: str
    truth: str
    name: str
    target: TargetKind
    subset: bool
    tuning: Tuned
