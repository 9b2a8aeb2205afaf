"""Scores of an atlas: the localization table, the curves, and the record of how they were computed."""

import pyarrow as pa

from schemas.arrow import CATEGORY, column, optional, schema
from schemas.base import Finite, Record
from schemas.targets import Target, TargetGroup

PROTOCOL = 6
"""Version of the formulas and counts. Counts of another version are recomputed."""

FINEST_STEP = 0.001
"""Step of the finest thresholds. Boxes differ at 255 of these, because maps are compared in 8 bits."""

ERROR_KINDS = ("correct", "classification", "multi_instance", "part", "more", "other")
"""Kinds of localization of an image; see ``pipeline.score.error_kinds``."""

_SEGMENTATION = "as ImageNet-Segmentation of Chefer et al. (CVPR 2021): bilinear map, foreground above its own mean; "
_SPLIT_BOX = "share of images whose box of the largest contour has IoU 0.5 or more, at the threshold tuned on the split"
_ERROR = "share of the images of ``top1_loc`` "
_ERROR_RIGHT = _ERROR + "whose label is the prediction and whose box is wrong, as it "
_IOU = "IoU of object pixels at the tuned threshold, over all pixels together"

SCORES = {
    "pxap": "area under precision over recall of all pixels together (Choe et al., CVPR 2020)",
    "maxboxacc": "BoxAcc at IoU 0.5 of the box of the largest contour, at its best threshold (Choe et al.)",
    "maxboxacc_v2": "mean of ``iou30``, ``iou50`` and ``iou70``, each at its best threshold (Choe et al.)",
    "iou30": "BoxAcc at IoU 0.3 of the box of any contour, at its best threshold",
    "iou50": "BoxAcc at IoU 0.5 of the box of any contour, at its best threshold",
    "iou70": "BoxAcc at IoU 0.7 of the box of any contour, at its best threshold",
    "gt_known": _SPLIT_BOX,
    "boxacc_v2": "as ``maxboxacc_v2``, at the thresholds tuned on the split",
    "top1_loc": "as ``gt_known``, and the label is the prediction; an image without a label is a miss, and the score "
    "is null where no image has one",
    "top5_loc": "as ``top1_loc``, with the label among the first 5 predictions",
    "top1_cls": "share of the images with a label whose label is the prediction, whatever the box",
    "top5_cls": "share of the images with a label whose label is among the first 5 predictions",
    "error_classification": _ERROR + "whose label is not the prediction, or that have none (TS-CAM, Gao et al., ICCV "
    "2021); with ``top1_loc`` and the other errors it makes 100",
    "error_multi_instance": _ERROR_RIGHT + "covers more than 0.3 of each of several objects",
    "error_part": _ERROR_RIGHT + "lies in the object by more than 0.5, and is none of those before",
    "error_more": _ERROR_RIGHT + "covers 0.7 or more of the object, and is none of those before",
    "error_other": _ERROR_RIGHT + "is none of those before",
    "gt_known_20": "IoU 0.5 of the box of the largest contour above 0.2 of the maximum (Zhou et al., CVPR 2016)",
    "seg_accuracy": _SEGMENTATION + "accuracy over all pixels together",
    "seg_miou": _SEGMENTATION + "mean IoU of object and background over all pixels together",
    "seg_map": _SEGMENTATION + "average precision, mean over the images",
    "seg_f1": _SEGMENTATION + "F1, mean over the images",
    "iou": _IOU,
    "f_beta": "F (β² = 0.3) of object pixels at the tuned threshold, mean over the images",
    "iou_s": _IOU + ", of images whose objects cover up to 5 %",
    "iou_ms": _IOU + ", of images whose objects cover 5 to 25 %",
    "iou_ml": _IOU + ", of images whose objects cover 25 to 50 %",
    "iou_l": _IOU + ", of images whose objects cover more than 50 %",
    "iou_oracle": "as ``iou``, at the best threshold of all images (ImageNet-S, Gao et al., TPAMI 2022; no classes)",
    "f_beta_oracle": "as ``f_beta``, at the best threshold of all images",
    "pointing": "share of the maxima of the map that lie in the object, mean over the images with object pixels",
    "energy": "share of the map that lies in the object, mean over the images with object pixels",
}
"""Scores, all in %, null where the truth does not support them (masks) or the target kind does not define them.

``gt_known``, ``boxacc_v2``, ``top1_loc``, ``top5_loc``, the errors, ``iou``, ``f_beta`` and ``iou_s`` … ``iou_l`` are
of the images outside of the tuning split, at thresholds chosen on the split: the performance in practice. All others
are of all images. Where these have a threshold, it is the best on the same images: comparable with the literature, and
an upper bound that no user could reach.
"""

CONTROLS = ("center", "uniform", "random", "edges", "whole image", "centered square")
"""Methods and predictors that know less than any method should."""


def is_control(name: str) -> bool:
    """Return whether a name is that of a control, with or without options."""
    return any(name == control or name.startswith(f"{control}_") for control in CONTROLS)


LOCALIZATION = schema(
    optional("source", pa.string(), "name of what is scored; null of a predictor beside several sources"),
    column("method", pa.string(), "name of the method, with its options"),
    column("kind", pa.string(), "``method`` or ``control``"),
    optional("target", pa.string(), "target kind of the maps; null where it is not known"),
    optional(
        "network",
        pa.string(),
        "name of the network and the first 12 digits of the hash of its weights; all scores depend on it; null where "
        "it is not known",
    ),
    column("images", pa.int64(), "number of scored images"),
    column("masks", pa.int64(), "number of scored images that have truth masks"),
    column("test_images", pa.int64(), "number of images outside of the tuning split"),
    column("tuning_images", pa.int64(), "number of images in the tuning split"),
    column("without_maps", pa.int64(), "number of images with truth but without maps"),
    column("without_object", pa.int64(), "number of images whose truth has no object; only PxAP counts their masks"),
    optional(
        "degenerate",
        pa.int64(),
        "number of scored maps that are 0 everywhere: constant, not finite, or an empty mask; null without maps",
    ),
    *(optional(name, pa.float64(), description) for name, description in SCORES.items()),
    optional("threshold", pa.float64(), "threshold for boxes, tuned on the split"),
    optional("threshold_oracle", pa.float64(), "best threshold for boxes on all images"),
    optional("mask_threshold", pa.float64(), "threshold for pixels, tuned on the split"),
    optional("mask_threshold_oracle", pa.float64(), "best threshold for pixels on all images"),
    optional(
        "v2_thresholds", pa.list_(pa.float64()), "thresholds for boxes at IoU 0.3, 0.5 and 0.7, tuned on the split"
    ),
    optional(
        "v2_thresholds_oracle",
        pa.list_(pa.float64()),
        "best thresholds for boxes at IoU 0.3, 0.5 and 0.7 on all images",
    ),
    optional(
        "interval",
        pa.struct([pa.field(name, pa.list_(pa.float64())) for name in SCORES]),
        "2.5 and 97.5 % of the bootstrap of each score, at fixed thresholds",
    ),
)
"""One row per method, best PxAP first."""

DIFFERENCES = schema(
    optional("source", pa.string(), "source of the first row"),
    column("method", pa.string(), "method of the first row"),
    optional("other_source", pa.string(), "source of the second row"),
    column("other_method", pa.string(), "method of the second row"),
    column("score", pa.string(), "name of the score"),
    column("difference", pa.float64(), "score of the first row minus that of the second, in percentage points"),
    optional("low", pa.float64(), "2.5 % of the bootstrap of the difference, at fixed thresholds"),
    optional("high", pa.float64(), "97.5 % of the bootstrap of the difference, at fixed thresholds"),
)
"""Paired differences of the same images: one row per pair of rows of the table and score that both have."""

CURVES = schema(
    column("source", pa.string(), "name of what is scored"),
    column("method", pa.string(), "name of the method, with its options"),
    column(
        "curve",
        pa.string(),
        "``largest50``: BoxAcc at IoU 0.5 of the largest contour; ``any30``, ``any50``, ``any70``: BoxAcc of any "
        "contour; ``precision``: precision of the pixels at or above the threshold",
    ),
    column("threshold", pa.float64(), "threshold in [0, 1]"),
    column("value", pa.float64(), "value of the curve in %"),
    optional("recall", pa.float64(), "recall in % of the pixels of ``precision``"),
)
"""Curves over the threshold, of all images."""

_BOX = "x0, y0, x1, y1 at 224 × 224, ends inclusive; x · width / 224 is in pixels of the image"
IMAGE_ROWS = schema(
    column("source", CATEGORY, "name of what is scored"),
    column("method", CATEGORY, "name of the method, with its options"),
    column("key", pa.string(), "key of the image in the truth: that of its sample, without ``./``"),
    column("width", pa.int32(), "width of the image in pixels, as the maps see it"),
    column("height", pa.int32(), "height of the image in pixels, as the maps see it"),
    column("split", CATEGORY, "``tuning`` if thresholds are chosen on the image, otherwise ``test``"),
    column("group", pa.int32(), "random group of the image, which the bootstrap resamples"),
    optional("label_rank", pa.int32(), "number of classes with a higher logit than the label; null without a label"),
    optional("threshold", pa.float64(), "threshold for boxes, tuned on the split; null for predictors of boxes"),
    optional("box", pa.list_(pa.int32()), f"box of the largest contour at ``threshold``: {_BOX}"),
    optional("true_box", pa.list_(pa.int32()), "true box that has the largest IoU with ``box``, the same way"),
    optional("iou", pa.float64(), "IoU of ``box`` and ``true_box``, in [0, 1]"),
    optional(
        "error",
        CATEGORY,
        f"kind of ``box``: {', '.join(f'``{kind}``' for kind in ERROR_KINDS)}; null where these are not defined",
    ),
    optional("iou_20", pa.float64(), "as ``iou``, at 0.2 of the maximum; null without a map"),
    optional("iou_oracle", pa.float64(), "as ``iou``, at ``threshold_oracle`` of the table"),
    optional(
        "v2_ious",
        pa.list_(pa.float64()),
        "largest IoU of a box of any contour with a true box, at each of the ``v2_thresholds`` of the table",
    ),
    optional("v2_ious_oracle", pa.list_(pa.float64()), "the same at each of ``v2_thresholds_oracle``"),
    optional("mask_pixels", pa.int32(), "object pixels at 224 × 224; null without masks or maps"),
    optional("found_pixels", pa.int32(), "pixels of the map at or above ``mask_threshold`` that the truth counts"),
    optional("shared_pixels", pa.int32(), "pixels that are both"),
)
"""A row for each scored image with an object and method, at the thresholds of the table."""


CLASS_METRICS = {
    "p_miou": "p-mIoU of points: TP / (TP + FP + FN) at threshold 0.5, of each class over all images together, mean "
    "over the classes (Benenson & Ferrari, arXiv 2210.14142)",
    "p_miou_pairs": "the same points: mean of foreground and background IoU of each pair of image and class, mean over "
    "the pairs",
    "miou": "mean IoU of background and classes over all pixels together, where a pixel has the class of the largest "
    "map or is background; at the threshold tuned on the split, of the images outside of it",
    "miou_oracle": "as ``miou``, at the best threshold of all images (PASCAL VOC)",
}
"""Scores of open vocabulary, all in %; null where the truth does not support them: points or masks."""

CLASS_SCORES = schema(
    column("source", pa.string(), "name of the atlas"),
    column("method", pa.string(), "name of the method, with its options"),
    column("kind", pa.string(), "``method`` or ``control``"),
    column("target", pa.string(), "target kind of the maps"),
    column("network", pa.string(), "name of the network and the first 12 digits of the hash of its weights"),
    column("images", pa.int64(), "number of scored images"),
    column("classes", pa.int64(), "number of classes that the truth of these images has"),
    optional("tuning_images", pa.int64(), "number of images in the tuning split"),
    column("without_maps", pa.int64(), "number of images with truth but without maps"),
    column("classes_without_map", pa.int64(), "number of pairs of image and class that have no map"),
    optional("points_outside", pa.int64(), "number of points that the network did not see; they do not count"),
    *(optional(name, pa.float64(), description) for name, description in CLASS_METRICS.items()),
    optional("threshold", pa.float64(), "foreground is above it; of points fixed, of masks tuned on the split"),
    optional("threshold_oracle", pa.float64(), "best threshold on all images"),
    optional(
        "interval",
        pa.struct([pa.field(name, pa.list_(pa.float64())) for name in CLASS_METRICS]),
        "2.5 and 97.5 % of the bootstrap of each score, at fixed thresholds",
    ),
)
"""Scores of open vocabulary: one row per method, best first."""

CLASS_IOUS = schema(
    column("method", pa.string(), "name of the method, with its options"),
    optional("class", pa.int32(), "class id; null for the background"),
    column("name", pa.string(), "name of the class in the truth"),
    optional("iou", pa.float64(), "IoU in %, at the threshold of ``p_miou`` or ``miou_oracle``; null if undefined"),
)
"""IoU of each class over all images."""


class TuningSplitRecord(Record):
    """Tuning split: the images that thresholds are chosen on.

    Attributes:
        truth: digest of the truth that names the images; None: the split is chosen by the hash of the keys.
        name: name of that truth.
        atlas: hash of the run with their maps, where it is another one.
        keys: digest of their keys.
    """

    truth: str | None = None
    name: str | None = None
    atlas: str | None = None
    keys: str


class ScoringSpec(Record):
    """``about.json`` of a folder of scores of one source: what they are computed from. Written first.

    Attributes:
        protocol: version of the formulas.
        run: hash of the run that made the atlas; of another source, of the names or the content of its files.
        truth: digest of the truth.
        name: name of the truth.
        target: of the maps, or the group of targets whose maps are scored together; None where it is not known.
        subset: score only images that have both maps and truth.
        tuning: images that thresholds are chosen on.
        classes: digest of the classes of the truth and their class ids; None where classes do not matter.
        grid_step: step of the thresholds of boxes and of PxAP.
    """

    protocol: int = PROTOCOL
    run: str
    truth: str
    name: str
    target: Target | TargetGroup | None
    subset: bool
    tuning: TuningSplitRecord
    classes: str | None = None
    grid_step: Finite = FINEST_STEP


class ComparisonSpec(Record):
    """``comparison.json`` of a folder of scores of several sources: what they are computed from. Written first.

    Attributes:
        protocol: version of the formulas.
        truth: digest of the truth of the images that all sources have.
        name: name of the truth.
        subset: score only images that all sources and the truth have.
        grid_step: step of the thresholds.
        tuning: digest of the truth that names the tuning split; None: it is chosen by the hash of the keys.
        sources: ``run`` of the ``ScoringSpec`` of each source, by the name of its folder in ``sources``.
    """

    protocol: int = PROTOCOL
    truth: str
    name: str
    subset: bool
    grid_step: float
    tuning: str | None
    sources: dict[str, str]
