"""Counts of one shard: the predictions of every method against the truth."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.image.iou import box_iou
from pipeline.image.score_map import SIDE, Window, score_map
from pipeline.run.derive import ShardResult, ShardTask
from pipeline.score import pixel_metrics, segmentation_metrics
from pipeline.score.box_metrics import BOX_THRESHOLDS, HIT_IOUS, largest_boxes, resize_boxes
from pipeline.score.counters import (
    BOX_ERRORS,
    IMAGE_SCORES,
    TUNING_ONLY_GROUP,
    ScoreCounts,
    bootstrap_group,
    from_npz,
    to_fixed_point,
    to_npz,
)
from pipeline.score.error_kinds import CORRECT_IOU, box_error_kinds
from pipeline.score.sources import ScoreSource, SourceImage
from pipeline.score.sources.source import Prediction
from pipeline.score.splits import ShardTruth
from pipeline.score.trivial_boxes import TRIVIAL_BOXES
from pipeline.truth.box_truth import clip_boxes
from pipeline.truth.truth import Boxes, Mask
from schemas.errors import UsageError
from schemas.scores import ERROR_KINDS


def counts_object(shard: str) -> str:
    """Return the name of the object with the counts of a shard."""
    return f"counts/{shard}.npz"


@dataclass(frozen=True)
class ScoredImage:
    """The truth of an image on the 224 × 224 grid.

    Attributes:
        group: see ``bootstrap_group``.
        boxes: int [m, 4]; none if only the background counts, in PxAP.
        mask, ignore: bool [224, 224]; mask is None if an object has only a box.
        rank: of the label among the classes; None without a label.
        window: part of the image that maps cover.
        key: of the image in the truth, for errors.
        size: width and height of the image in pixels.
    """

    group: int
    boxes: Boxes
    mask: Mask | None
    ignore: Mask
    rank: int | None
    window: Window
    key: str = ""
    size: tuple[int, int] = (SIDE, SIDE)


def score_shard(task: ShardTask[ScoreSource, ShardTruth]) -> ShardResult:
    """Count one shard and write its counts. Methods that the previous commit has are not counted again.

    Args:
        task: the shard and its truth.

    Raises:
        UsageError: an object in the truth of an image cannot be used.
    """
    objects, name = task.objects, counts_object(task.shard)
    counts_by_method = from_npz(objects.get(name), f"{objects.url}/{name}") if task.previous else {}
    new = [method for method in (*TRIVIAL_BOXES, *task.source.methods) if method not in counts_by_method]
    counts_by_method |= {method: ScoreCounts() for method in new}
    statuses: Counter[str] = Counter()
    read_methods = [method for method in new if method not in TRIVIAL_BOXES]
    for source_image, read in task.source.predictions(task.shard, read_methods):
        status, image = build_scored_image(source_image, task.data)
        statuses[status] += 1
        if image is None:
            continue
        predictions = read()
        for method in new:
            boxes = TRIVIAL_BOXES.get(method)
            if boxes is not None and not len(image.boxes):
                continue
            counts = count_boxes(boxes, image) if boxes is not None else count_prediction(predictions[method], image)
            counts_by_method[method].add(image.group, counts)
    written = objects.put(name, to_npz(counts_by_method))
    return ShardResult((written,), dict(sorted(statuses.items())), tuple(counts_by_method))


def build_scored_image(source_image: SourceImage, shard_truth: ShardTruth) -> tuple[str, ScoredImage | None]:
    """Return the status under which an image is counted, and the image if it is scored."""
    truth, tuning_only = shard_truth.find(source_image.key)
    if truth is None or source_image.is_duplicate:
        return "without_truth", None
    if not source_image.has_maps:
        return "tuning_without_maps" if tuning_only else "without_maps", None
    truth = source_image.place(truth)
    assert truth.size is not None, "placed truth has a size"
    boxes = truth.boxes
    mask, ignore = truth.masks_on_grid(SIDE)
    status = "scored" if len(boxes) else "without_object"
    if not len(boxes) and mask is None:
        return f"tuning_{status}" if tuning_only else status, None
    group = bootstrap_group(truth.key, truth.key in shard_truth.tuning_keys)
    status = {"scored": "tuning"}.get(status, f"tuning_{status}") if tuning_only else status
    return status, ScoredImage(
        key=truth.key,
        size=truth.size,
        group=TUNING_ONLY_GROUP if tuning_only else group,
        boxes=resize_boxes(boxes, *truth.size),
        mask=mask,
        ignore=ignore,
        rank=source_image.label_rank,
        window=source_image.window,
    )


@dataclass(frozen=True)
class GridPrediction:
    """A prediction on the 224 × 224 grid: a map, or boxes.

    Attributes:
        score: float [224, 224] in [0, 1]; None for boxes.
        boxes: int [255, 4], one for each threshold; None for a map.
    """

    score: NDArray[np.float64] | None = None
    boxes: Boxes | None = None

    def largest_boxes(self, truth: Boxes, levels: Sequence[int]) -> tuple[Boxes, NDArray[np.float64]]:
        """Return ``box_metrics.largest_boxes`` at some of ``BOX_THRESHOLDS``, given by their indices."""
        if self.boxes is not None:
            boxes = self.boxes[levels]
            return boxes, box_iou(boxes, truth).max(1)
        assert self.score is not None
        return largest_boxes(self.score, truth, BOX_THRESHOLDS[levels])


def to_grid(prediction: Prediction, image: ScoredImage) -> GridPrediction:
    """Return a map, a mask or a box on the 224 × 224 grid.

    Raises:
        UsageError: see ``count_prediction``.
    """
    if prediction.ndim == 1:
        return GridPrediction(boxes=_resize_box(prediction, image))
    _check_sides(prediction, image)
    return GridPrediction(score_map(prediction, image.window))


def count_prediction(prediction: Prediction, image: ScoredImage) -> Mapping[str, ArrayLike]:
    """Return the counts of a map, a mask or a box; see ``ScoreCounts``.

    Raises:
        UsageError: a box has no area or lies outside the image; a map has the sides of the image swapped.
    """
    if prediction.ndim == 1:
        # Boxes have no pixels, which images without an object are counted for.
        return count_boxes(_resize_box(prediction, image), image) if len(image.boxes) else {}
    _check_sides(prediction, image)
    return count_map(prediction, image)


def _resize_box(box: Prediction, image: ScoredImage) -> Boxes:
    """Return a box on the grid, once for each threshold."""
    size = np.array([image.size], np.float64)
    boxes = clip_boxes(box[None].astype(np.float64), size, lambda _: f"{image.key}: its predicted box")
    return np.repeat(resize_boxes(boxes, *image.size), len(BOX_THRESHOLDS), 0)


def _check_sides(values: Prediction, image: ScoredImage) -> None:
    width, height = image.size
    if values.shape == (width, height) != (height, width):
        raise UsageError(
            f"{image.key}: its map is {height}×{width} pixels and its image {width}×{height}; transpose it, or make it "
            "of the image that the truth is of, stored or upright"
        )


def count_map(values: NDArray[np.floating], image: ScoredImage) -> Mapping[str, ArrayLike]:
    """Return the counts of one map; see ``ScoreCounts``.

    Args:
        values: float [h, w], any scale; or a mask, bool [h, w].
        image: that the map belongs to.
    """
    score = score_map(values, image.window)
    if not len(image.boxes):  # the reference pools the pixels of all masks, also of those without an object
        assert image.mask is not None
        return {"pixels": pixel_metrics.score_histogram(score, image.mask, image.ignore)}
    counts = _count_boxes(*largest_boxes(score, image.boxes), image) | {"degenerate": not score.any()}
    mask, ignore = image.mask, image.ignore
    if mask is None:
        return counts
    histogram = pixel_metrics.score_histogram(score, mask, ignore)
    sizes = np.zeros((len(pixel_metrics.SIZE_LIMITS) + 1, 2, len(pixel_metrics.MASK_THRESHOLDS)), np.int64)
    coarse = sizes[pixel_metrics.size_class(mask)] = pixel_metrics.coarsen(histogram)
    linear = segmentation_metrics.linear_map(values, image.window)
    confusion = segmentation_metrics.confusion(linear, mask, ignore)
    image_scores = {
        "seg_map": segmentation_metrics.average_precision(linear, mask, ignore),
        "seg_f1": segmentation_metrics.f1(confusion),
        "pointing": pixel_metrics.pointing_game(score, mask, ignore) if mask.any() else 0.0,
        "energy": pixel_metrics.energy(score, mask, ignore) if mask.any() else 0.0,
    }
    return counts | {
        "masks": 1,
        "objects": int(mask.any()),
        "pixels": histogram,
        "sizes": sizes,
        "confusion": confusion,
        "image_scores": to_fixed_point([image_scores[name] for name in IMAGE_SCORES]),
        "f_beta": to_fixed_point(pixel_metrics.f_beta(coarse)),
    }


def count_boxes(boxes: Boxes, image: ScoredImage) -> Mapping[str, ArrayLike]:
    """Return the counts of a predictor of boxes.

    Args:
        boxes: int [255, 4], one for each threshold.
        image: that the boxes belong to.
    """
    return _count_boxes(boxes, box_iou(boxes, image.boxes).max(1), image)


def _count_boxes(largest: Boxes, any_ious: NDArray[np.float64], image: ScoredImage) -> dict[str, ArrayLike]:
    """Return the counts of boxes.

    Args:
        largest: int [255, 4], box of the largest contour at each threshold.
        any_ious: float [255], largest IoU of a box of any contour.
        image: that the boxes belong to.
    """
    hit = box_iou(largest, image.boxes).max(1) >= CORRECT_IOU
    in_top1, in_top5 = (image.rank is not None and image.rank < count for count in (1, 5))
    kinds = box_error_kinds(largest, image.boxes)
    return {
        "images": 1,
        "labelled": image.rank is not None,
        "top1": in_top1,
        "top5": in_top5,
        "hits": np.stack([*(any_ious >= iou for iou in HIT_IOUS), hit, hit & in_top1, hit & in_top5]),
        "errors": [in_top1 & (kinds == ERROR_KINDS.index(kind)) for kind in BOX_ERRORS],
    }
