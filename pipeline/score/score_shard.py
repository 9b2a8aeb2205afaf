"""The counts of one shard: every method's maps against the truth."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.image.iou import box_iou
from pipeline.image.score_map import SIDE, Window, score_map, window
from pipeline.run.derive import ShardResult, ShardTask
from pipeline.score import pixel_metrics, segmentation_metrics
from pipeline.score.box_metrics import IOUS, Boxes, overlaps, resize_boxes
from pipeline.score.counters import TUNING, Tally, fixed, group_of, pack, unpack
from pipeline.score.splits import Part
from pipeline.score.trivial_boxes import TRIVIAL
from schemas.run import TargetKind
from schemas.samples import SampleStatus

Mask = NDArray[np.bool_]


def counts_object(shard: str) -> str:
    """The counts of a shard."""
    return f"counts/{shard}.npz"


@dataclass(frozen=True)
class Picture:
    """What is known of a picture, on the 224 × 224 grid.

    Attributes:
        group: see ``tally``.
        boxes: int [m, 4], m ≥ 1.
        mask, ignore: bool [224, 224]; no mask where the truth has a box only.
        rank: of the label among the classes; None without a label.
        window: the part of the picture that maps are of.
    """

    group: int
    boxes: Boxes
    mask: Mask | None
    ignore: Mask
    rank: int | None
    window: Window


def score_shard(target: TargetKind, methods: Sequence[str], task: ShardTask[Part]) -> ShardResult:
    """Count one shard and write its counts.

    Args:
        target: whose maps are counted.
        methods: names of methods; those that the previous commit has are not counted again.
        task: the shard, with what is scored of it.

    Raises:
        UsageError: something in the truth of an image cannot be used.
    """
    objects, name, size = task.objects, counts_object(task.shard), task.atlas.run.model.input_size
    tallies = unpack(objects.get(name), f"{objects.url}/{name}") if task.previous else {}
    new = [method for method in (*TRIVIAL, *methods) if method not in tallies]
    tallies |= {method: Tally() for method in new}
    shard = task.atlas.shard(task.shard)
    maps = {method: shard.maps(method, target) for method in new if method not in TRIVIAL}
    counts: Counter[str] = Counter()
    for place, sample in enumerate(shard.samples.to_pylist()):
        status, picture = _picture(sample, task.data, size)
        counts[status] += 1
        if picture is None:
            continue
        for method in new:
            trivial = TRIVIAL.get(method)
            values = of_boxes(trivial, picture) if trivial is not None else of_map(maps[method][place], picture)
            tallies[method].add(picture.group, values)
    return ShardResult((objects.put(name, pack(tallies)),), dict(sorted(counts.items())), tuple(tallies))


def _picture(sample: dict[str, Any], part: Part, frame: tuple[int, int]) -> tuple[str, Picture | None]:
    known, aside = part.of(sample["key"])
    if known is None or sample["status"] == SampleStatus.DUPLICATE_KEY:
        return "without_truth", None
    if sample["status"] != SampleStatus.OK:
        return "tuning_without_maps" if aside else "without_maps", None
    width, height = sample["width"], sample["height"]
    known = known.with_size(width, height)
    corners = known.boxes
    if not len(corners):
        return "tuning_without_object" if aside else "without_object", None
    mask, ignore = known.masks_on_grid(SIDE)
    key = sample["key"].removeprefix("./")
    return "tuning" if aside else "scored", Picture(
        group=TUNING.stop - 1 if aside else group_of(key, sample["key"] in part.split),
        boxes=resize_boxes(corners, width, height),
        mask=mask,
        ignore=ignore,
        rank=sample["label_rank"],
        window=window(sample, frame),
    )


def of_map(values: NDArray[np.floating], picture: Picture) -> Mapping[str, ArrayLike]:
    """Counts of one map, float [h, w]; see ``Tally``."""
    score = score_map(values, picture.window)
    largest, every = overlaps(score, picture.boxes)
    counts = _of_hits(largest, every, picture.rank)
    mask, ignore = picture.mask, picture.ignore
    if mask is None:
        return counts
    found = pixel_metrics.histogram(score, mask, ignore)
    sizes = np.zeros((len(pixel_metrics.SIZES) + 1, 2, len(pixel_metrics.MASK_TAUS)), np.int64)
    coarse = sizes[pixel_metrics.size_of(mask)] = pixel_metrics.coarse(found)
    linear = segmentation_metrics.linear_map(values, picture.window)
    areas = segmentation_metrics.areas(linear, mask, ignore)
    per_picture = [
        segmentation_metrics.average_precision(linear, mask, ignore),
        segmentation_metrics.f1(areas),
        0.0,
        0.0,
    ]
    if mask.any():
        per_picture[2:] = pixel_metrics.pointing(score, mask, ignore), pixel_metrics.energy(score, mask, ignore)
    return counts | {
        "masks": 1,
        "objects": int(mask.any()),
        "pixels": found,
        "sizes": sizes,
        "areas": areas,
        "values": fixed(per_picture),
        "f_beta": fixed(pixel_metrics.f_beta(coarse)),
    }


def of_boxes(boxes: Boxes, picture: Picture) -> Mapping[str, ArrayLike]:
    """Counts of a predictor that has one box at each cut, int [255, 4]."""
    best = box_iou(boxes, picture.boxes).max(1)
    return _of_hits(best, best, picture.rank)


def _of_hits(largest: NDArray[np.float64], every: NDArray[np.float64], rank: int | None) -> dict[str, ArrayLike]:
    """Counts of boxes from their overlaps [255]; ``hits`` is bool [6, 255] in the order of ``tally.HITS``."""
    known, labelled = largest >= 0.5, rank is not None
    among = [known & (rank is not None and rank < first) for first in (1, 5)]
    return {"images": 1, "labelled": labelled, "hits": np.stack([*(every >= each for each in IOUS), known, *among])}
