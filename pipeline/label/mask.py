"""A map and a policy make a mask in original pixels."""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from pipeline.image.upsample import upsample_to_image, valid_region
from pipeline.label.threshold import threshold
from schemas.labels import LabelStatus
from schemas.policy import Policy, Postprocess

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]
Rle = dict[str, Any]


@dataclass(frozen=True)
class Heatmap:
    """What a mask is cut from.

    Attributes:
        values: float32 [h, w], combined and refined, on cells that lie evenly in the network's input.
        agreement: of the methods; None of a single one.
    """

    values: NDArray[np.float32]
    agreement: float | None = None


@dataclass(frozen=True)
class Label:
    """A labelled sample.

    Attributes:
        sample: its row of the sample table.
        status: a ``LabelStatus``, or the sample's own where it has no map.
        class_id: the class that the mask is of.
        heatmap: what it was cut from; None without a map.
        frame: height and width of the network's input.
        mask_rle: the object in the original picture, as COCO run lengths: ``size`` [height, width] and ``counts``,
            column by column, compressed; None without a map, or where the policy leaves it out.
        ignore_rle: the same, pixels of which nothing is said; never in the mask.
        threshold, background: that were used.
        area, ignored: shares of the picture.
        boxes: of each component, largest first: x0, y0, x1, y1, inclusive.
        probability: that the network gives the class.
        agreement: of the methods; None of a single one.
    """

    sample: dict[str, Any]
    status: str
    class_id: int | None = None
    heatmap: Heatmap | None = None
    frame: tuple[int, int] = (0, 0)
    mask_rle: Rle | None = None
    ignore_rle: Rle | None = None
    threshold: float | None = None
    background: float | None = None
    area: float | None = None
    ignored: float | None = None
    boxes: tuple[Box, ...] | None = None
    probability: float | None = None
    agreement: float | None = None

    def without_heatmap(self) -> "Label":
        """The same without what it was cut from, which takes most of its memory."""
        return replace(self, heatmap=None)

    @property
    def mask(self) -> Mask | None:
        """bool [height, width] of the original picture."""
        return None if self.mask_rle is None else rle.decode(self.mask_rle).astype(bool)

    @property
    def ignore(self) -> Mask | None:
        """bool [height, width] of the original picture."""
        return None if self.ignore_rle is None else rle.decode(self.ignore_rle).astype(bool)


def make_label(heatmap: Heatmap, sample: dict[str, Any], frame: tuple[int, int], policy: Policy) -> Label:
    """Label one sample that has a map.

    Args:
        heatmap: of all methods of the policy.
        sample: its row of the sample table.
        frame: height and width of the network's input, in pixels.
    """
    picture, known = upsample_to_image(heatmap.values, sample, frame), valid_region(sample, frame)
    within = picture if known.all() else picture[known]
    above = threshold(within, policy.threshold)
    mask, boxes = _clean((picture > above) & known, policy.postprocess)
    ignore, below = ~known, None
    if policy.background_threshold is not None:
        below = min(above, threshold(within, policy.background_threshold))
        ignore |= picture > below
    ignore &= ~mask
    class_id = sample["label"] if policy.target == "label" else sample["prediction"]
    by_class = {sample["label"]: sample["label_probability"], sample["prediction"]: sample["probability"]}
    area, probability = float(mask.mean()), by_class.get(class_id)
    status = _verdict(sample, area, probability, heatmap.agreement, policy)
    kept = status in (LabelStatus.OK, LabelStatus.EMPTY)
    return Label(
        sample,
        status,
        class_id,
        heatmap,
        frame,
        _coded(mask) if kept else None,
        _coded(ignore) if kept else None,
        above,
        below,
        area,
        float(ignore.mean()),
        boxes,
        probability,
        heatmap.agreement,
    )


def _coded(mask: Mask) -> Rle:
    """Run lengths of a mask. OpenCV transposes faster than NumPy does."""
    coded: Rle = rle.encode(cv2.transpose(np.ascontiguousarray(mask).view(np.uint8)).T)
    return coded


def _clean(mask: Mask, clean: Postprocess) -> tuple[Mask, tuple[Box, ...]]:
    """What is kept of a mask, and the box of each component of it."""
    grey = mask.astype(np.uint8)
    if clean.fill_holes:
        outlines, _ = cv2.findContours(grey, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(grey, outlines, -1, 1, cv2.FILLED)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(grey, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    order = [int(part) for part in np.argsort(-areas[1:], kind="stable") + 1]
    kept = [part for part in order if areas[part] >= clean.min_area * mask.size]
    if clean.keep == "largest":
        kept = kept[:1]
    boxes = tuple((int(x), int(y), int(x + width - 1), int(y + height - 1)) for x, y, width, height in stats[kept, :4])
    chosen = np.zeros(len(stats), bool)
    chosen[kept] = True
    return chosen[parts], boxes


def _verdict(
    sample: dict[str, Any], area: float, probability: float | None, agreement: float | None, policy: Policy
) -> LabelStatus:
    rules = policy.filter
    if rules.top1 and sample["prediction"] != sample["label"]:
        return LabelStatus.NOT_TOP1
    if (probability or 0.0) < rules.probability:
        return LabelStatus.LOW_PROBABILITY
    if agreement is not None and agreement < rules.agreement:
        return LabelStatus.DISAGREEMENT
    if area < rules.area[0]:
        return LabelStatus.TOO_SMALL
    if area > rules.area[1]:
        return LabelStatus.TOO_LARGE
    return LabelStatus.OK if area else LabelStatus.EMPTY
