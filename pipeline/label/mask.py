"""Masks in original pixels, from a heatmap and a policy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from pipeline.image.upsample import upsample_to_image, valid_region
from pipeline.label.threshold import compute_threshold
from schemas.labels import LabelStatus
from schemas.policy import Policy, Postprocess
from schemas.run import Exif
from schemas.samples import explained_class

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]
Rle = dict[str, Any]


@dataclass(frozen=True)
class Heatmap:
    """A map, or a combination of maps, that a mask is cut from.

    Attributes:
        values: float32 [h, w], combined and refined, on a regular grid over the input of the network; or in the pixels
            of the original image.
        agreement: agreement of the methods, see ``combine_maps``; None with a single one.
        seen: bool, of values in the original image, pixels that all networks saw; None: values are on a grid.
        left_out: number of methods whose map is degenerate.
    """

    values: NDArray[np.float32]
    agreement: float | None = None
    seen: Mask | None = None
    left_out: int = 0

    def in_image(self, sample: dict[str, Any], input_size: tuple[int, int]) -> tuple[NDArray[np.float32], Mask]:
        """Return the heatmap in the pixels of the original image, and which of them the network saw: [height, width].

        Args:
            sample: its row of the sample table.
            input_size: height and width of the network's input, in pixels.
        """
        if self.seen is not None:
            return self.values, self.seen
        return upsample_to_image(self.values, sample, input_size), valid_region(sample, input_size)


@dataclass(frozen=True)
class Label:
    """The label of one sample.

    Attributes:
        sample: its row of the sample table.
        status: a ``LabelStatus``, or the status of the sample if it has no map.
        class_id: class of the mask, or of the maps if there is no mask; None without maps.
        heatmap: the heatmap; None without a map.
        input_size: height and width of the network's input.
        unseen_rle: pixels that a network did not see, as ``mask_rle``; None if there are none.
        mask_rle: the object in the original image, as COCO run lengths: ``size`` [height, width] and ``counts``, column
            by column, compressed. None without a map, or if the filter of the policy leaves the mask out.
        ignore_rle: the same of pixels that may be object or background; they are never in the mask.
        threshold, background: values of the two thresholds.
        area, ignored: shares of the image.
        boxes: box of each component, largest component first: x0, y0, x1, y1, inclusive.
        probability: probability that the network gives the class.
        agreement: agreement of the methods; None with a single one.
        left_out: number of methods of the policy whose map is degenerate.
        exif: whether the image of the mask was turned upright (``apply``) or taken as it is stored (``ignore``).
    """

    sample: dict[str, Any]
    status: str
    class_id: int | None = None
    heatmap: Heatmap | None = None
    input_size: tuple[int, int] = (0, 0)
    unseen_rle: Rle | None = None
    mask_rle: Rle | None = None
    ignore_rle: Rle | None = None
    threshold: float | None = None
    background: float | None = None
    area: float | None = None
    ignored: float | None = None
    boxes: tuple[Box, ...] | None = None
    probability: float | None = None
    agreement: float | None = None
    left_out: int = 0
    exif: Exif = "apply"

    def without_heatmap(self) -> "Label":
        """Return the label without its heatmap, which takes most of the memory."""
        return replace(self, heatmap=None)

    @property
    def mask(self) -> Mask | None:
        """Mask of the object, bool [height, width] of the original image."""
        return None if self.mask_rle is None else rle.decode(self.mask_rle).astype(bool)

    @property
    def unseen(self) -> Mask:
        """Pixels that a network did not see, bool [height, width] of the original image."""
        if self.unseen_rle is None:
            return np.zeros((self.sample["height"], self.sample["width"]), bool)
        return rle.decode(self.unseen_rle).astype(bool)

    @property
    def ignore(self) -> Mask | None:
        """Pixels to ignore, bool [height, width] of the original image."""
        return None if self.ignore_rle is None else rle.decode(self.ignore_rle).astype(bool)


def make_label(
    heatmap: Heatmap, sample: dict[str, Any], input_size: tuple[int, int], policy: Policy, targets: Sequence[str] = ()
) -> Label:
    """Label one sample that has a map.

    Args:
        heatmap: heatmap of the sample.
        sample: its row of the sample table.
        input_size: height and width of the network's input, in pixels.
        policy: how the heatmap becomes a mask.
        targets: all targets of the run; they are not needed for a policy of labels or predictions.
    """
    values, valid = heatmap.in_image(sample, input_size)
    valid_values = values if valid.all() else values[valid]
    threshold = compute_threshold(valid_values, policy.threshold)
    mask, boxes = postprocess_mask((values > threshold) & valid, policy.postprocess)
    ignore, background = ~valid, None
    if policy.background_threshold is not None:
        background = min(threshold, compute_threshold(valid_values, policy.background_threshold))
        ignore |= values > background
    ignore &= ~mask
    area, (class_id, probability) = float(mask.mean()), explained_class(sample, policy.target, targets)
    status = _filter(sample, area, probability, heatmap.agreement, policy)
    has_mask = status in (LabelStatus.OK, LabelStatus.EMPTY)
    return Label(
        sample=sample,
        status=status,
        class_id=class_id,
        heatmap=heatmap,
        input_size=input_size,
        unseen_rle=None if valid.all() else encode_rle(~valid),
        mask_rle=encode_rle(mask) if has_mask else None,
        ignore_rle=encode_rle(ignore) if has_mask else None,
        threshold=threshold,
        background=background,
        area=area,
        ignored=float(ignore.mean()),
        boxes=boxes,
        probability=probability,
        agreement=heatmap.agreement,
        left_out=heatmap.left_out,
    )


def with_mask(label: Label, mask: Mask, ignore: Mask, limits: tuple[float, float] = (0.0, 1.0)) -> Label:
    """Return a label with another mask, and the status, shares and boxes that it has by this mask.

    Args:
        label: the label.
        mask: bool [height, width] of the original image.
        ignore: pixels to ignore, likewise; none of them is in the mask.
        limits: least and largest share of the image that is object; beyond them the label has no mask.
    """
    area = float(mask.mean())
    status = _check_area(area, limits)
    has_mask = status in (LabelStatus.OK, LabelStatus.EMPTY)
    return replace(
        label,
        status=status,
        mask_rle=encode_rle(mask) if has_mask else None,
        ignore_rle=encode_rle(ignore) if has_mask else None,
        area=area,
        ignored=float(ignore.mean()),
        boxes=component_boxes(mask),
    )


def encode_rle(mask: Mask) -> Rle:
    """Return bool [height, width] as compressed COCO run lengths."""
    # OpenCV transposes faster than NumPy does.
    encoded: Rle = rle.encode(cv2.transpose(np.ascontiguousarray(mask).view(np.uint8)).T)
    return encoded


def component_boxes(mask: Mask) -> tuple[Box, ...]:
    """Return the tight box of each 8-connected component of bool [height, width], largest component first."""
    return postprocess_mask(mask, Postprocess())[1]


def postprocess_mask(mask: Mask, options: Postprocess) -> tuple[Mask, tuple[Box, ...]]:
    """Return the postprocessed mask, and the box of each component of it, largest first.

    Args:
        mask: bool [height, width].
        options: morphology.
    """
    pixels = mask.astype(np.uint8)
    if options.fill_holes:
        contours, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(pixels, contours, -1, 1, cv2.FILLED)
    _, components, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    largest_first = [int(component) for component in np.argsort(-areas[1:], kind="stable") + 1]
    selected = [component for component in largest_first if areas[component] >= options.min_area * mask.size]
    if options.keep == "largest":
        selected = selected[:1]
    boxes = tuple(
        (int(x), int(y), int(x + width - 1), int(y + height - 1)) for x, y, width, height in stats[selected, :4]
    )
    is_selected = np.zeros(len(stats), bool)
    is_selected[selected] = True
    return is_selected[components], boxes


def _filter(
    sample: dict[str, Any], area: float, probability: float | None, agreement: float | None, policy: Policy
) -> LabelStatus:
    limits = policy.filter
    if limits.top1 and sample["prediction"] not in (sample.get("labels") or [sample["label"]]):
        return LabelStatus.NOT_TOP1
    if (probability or 0.0) < limits.probability:
        return LabelStatus.LOW_PROBABILITY
    if agreement is not None and agreement < limits.agreement:
        return LabelStatus.DISAGREEMENT
    return _check_area(area, limits.area)


def _check_area(area: float, limits: tuple[float, float]) -> LabelStatus:
    if area < limits[0]:
        return LabelStatus.TOO_SMALL
    if area > limits[1]:
        return LabelStatus.TOO_LARGE
    return LabelStatus.OK if area else LabelStatus.EMPTY
