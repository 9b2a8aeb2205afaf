"""A row for each image and method: the box at the chosen thresholds, its IoU, and the kind of its error.

Thresholds are chosen when all images are counted, so rows are made in a second pass over the maps, at the few
thresholds that the table of scores has. What the table says of boxes can be computed from them once more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.image.iou import box_iou
from pipeline.run.derive import DerivedProduct, ShardResult, ShardTask
from pipeline.score.aggregate import LEVEL_20, ChosenThresholds, choose_thresholds, has_kinds_of_errors
from pipeline.score.counters import ALL_GROUPS, TESTED_GROUPS, TUNING_GROUPS, TUNING_ONLY_GROUP
from pipeline.score.error_kinds import box_error_kinds
from pipeline.score.localization_table import ScoredMethod
from pipeline.score.pixel_metrics import MASK_THRESHOLDS
from pipeline.score.score_shard import GridPrediction, ScoredImage, build_scored_image, to_grid
from pipeline.score.sources import ScoreSource
from pipeline.score.splits import ShardTruth
from pipeline.score.threshold_grid import ThresholdGrid
from pipeline.score.trivial_boxes import TRIVIAL_BOXES
from pipeline.store.derived import ProductStore
from pipeline.store.parquet import from_parquet, to_parquet
from pipeline.truth.truth import Mask
from schemas.base import sha256
from schemas.commits import DerivedCommit
from schemas.scores import ERROR_KINDS, IMAGE_ROWS, ScoringSpec

IMAGES = "images"
"""Folder of the rows in that of the scores."""
_CLASSIFICATION = ERROR_KINDS.index("classification")


def rows_object(shard: str) -> str:
    """Return the name of the object with the rows of a shard."""
    return f"rows/{shard}.parquet"


@dataclass(frozen=True)
class MethodThresholds:
    """What the rows of a method are computed at.

    Attributes:
        tuned: thresholds chosen on the tuning split; None if there is none.
        oracle: the best thresholds on all images.
        threshold: that of boxes on the tuning split; None if there is none, or no map.
        has_maps: false for boxes, which have no maximum.
        has_kinds: errors have kinds: the maps are those of the label, and some image has one.
    """

    tuned: ChosenThresholds | None
    oracle: ChosenThresholds | None
    threshold: float | None
    has_maps: bool
    has_kinds: bool

    def item(self, method: str) -> str:
        """Return the name of the rows of a method in commits: other thresholds make other rows."""
        return f"{method} {sha256(repr(self).encode()).removeprefix('sha256:')[:16]}"

    @property
    def levels(self) -> list[int]:
        """Levels that boxes are needed at: indices of ``BOX_THRESHOLDS``."""
        chosen = [each for each in (self.tuned, self.oracle) if each is not None]
        return [LEVEL_20, *(level for each in chosen for level in (each.box, *each.v2))]


def find_thresholds(scored: ScoredMethod, grid: ThresholdGrid) -> MethodThresholds:
    """Return what the rows of a method are computed at: what the table has, see ``score_method``.

    Args:
        scored: the method, with the counts of all images.
        grid: thresholds of boxes.
    """
    grid = grid if scored.has_maps else ThresholdGrid()
    tuned = choose_thresholds(scored.counts.sums(TUNING_GROUPS), grid)
    return MethodThresholds(
        tuned=tuned,
        oracle=choose_thresholds(scored.counts.sums(ALL_GROUPS), grid),
        threshold=grid.threshold_of(tuned.box) if tuned is not None and scored.has_maps else None,
        has_maps=scored.has_maps,
        has_kinds=has_kinds_of_errors(scored.identity["target"])
        and bool(scored.counts.counts["labelled"][TESTED_GROUPS].any()),
    )


@dataclass(frozen=True, kw_only=True)
class ImageRows(DerivedProduct[ScoreSource, ShardTruth, None]):
    """The rows of a source, in a folder of its scores.

    Attributes:
        shard_truths: truth of the scored shards, by name.
        thresholds: of each method and trivial box.
    """

    about: ScoringSpec
    shard_truths: dict[str, ShardTruth]
    thresholds: Mapping[str, MethodThresholds]

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(self.shard_truths)

    def is_complete(self, commit: DerivedCommit) -> bool:
        return tuple(each.item(method) for method, each in self.thresholds.items()) == commit.items

    def source_of(self, shard: str) -> ScoreSource:
        return self.source.of_shard(shard)

    def inputs(self, shards: Sequence[str]) -> list[ShardTruth]:
        return [self.shard_truths[shard] for shard in shards]

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> None:
        """Nothing is made of all rows together."""


def write_rows(thresholds: Mapping[str, MethodThresholds], task: ShardTask[ScoreSource, ShardTruth]) -> ShardResult:
    """Write the rows of one shard. Rows that the previous commit has at the same thresholds are kept.

    Args:
        thresholds: of each method and trivial box.
        task: the shard and its truth.

    Raises:
        UsageError: see ``score_shard``.
    """
    objects, name = task.objects, rows_object(task.shard)
    items = {method: each.item(method) for method, each in thresholds.items()}
    kept: list[dict[str, Any]] = []
    previous = set(task.previous.items if task.previous else ())
    new = [method for method, item in items.items() if item not in previous]
    if len(new) < len(items):
        old = from_parquet(objects.get(name)).to_pylist()
        kept = [row for row in old if row["method"] in items and row["method"] not in new]
    read_methods = [method for method in new if method not in TRIVIAL_BOXES]
    rows = []
    for source_image, read in task.source.predictions(task.shard, read_methods):
        _, image = build_scored_image(source_image, task.data)
        if image is None or image.group == TUNING_ONLY_GROUP or not len(image.boxes):
            continue
        predictions = read()
        for method in new:
            boxes = TRIVIAL_BOXES.get(method)
            on_grid = to_grid(predictions[method], image) if boxes is None else GridPrediction(boxes=boxes)
            rows.append(describe_image(task.source.name, method, on_grid, image, thresholds[method]))
    order = {method: place for place, method in enumerate(items)}
    rows = sorted([*kept, *rows], key=lambda row: (row["key"], order[row["method"]]))
    written = objects.put(name, to_parquet(pa.Table.from_pylist(rows, schema=IMAGE_ROWS)))
    return ShardResult((written,), {"rows": len(rows)}, tuple(items.values()))


def describe_image(
    source: str, method: str, prediction: GridPrediction, image: ScoredImage, thresholds: MethodThresholds
) -> dict[str, Any]:
    """Return the row of an image, columns of ``schemas.scores.IMAGE_ROWS``.

    Args:
        source: of the prediction.
        method: that made it.
        prediction: on the 224 × 224 grid.
        image: with an object.
        thresholds: of the method.
    """
    levels = thresholds.levels
    boxes, any_ious = prediction.largest_boxes(image.boxes, levels)
    ious = box_iou(boxes, image.boxes)
    at = dict(zip(levels, zip(boxes, ious, any_ious.tolist(), strict=True), strict=True))
    width, height = image.size
    row: dict[str, Any] = {
        "source": source,
        "method": method,
        "key": image.key,
        "width": width,
        "height": height,
        "split": "test" if image.group < TESTED_GROUPS.stop else "tuning",
        "group": image.group,
        "label_rank": image.rank,
        "threshold": thresholds.threshold,
    }
    if thresholds.has_maps:
        row["iou_20"] = float(at[LEVEL_20][1].max())
    if thresholds.oracle is not None:
        row["iou_oracle"] = float(at[thresholds.oracle.box][1].max())
        row["v2_ious_oracle"] = [at[level][2] for level in thresholds.oracle.v2]
    if thresholds.tuned is None:
        return row
    box, box_ious, _ = at[thresholds.tuned.box]
    row |= {
        "box": box.tolist(),
        "true_box": image.boxes[box_ious.argmax()].tolist(),
        "iou": float(box_ious.max()),
        "v2_ious": [at[level][2] for level in thresholds.tuned.v2],
    }
    if thresholds.has_kinds:
        kind = int(box_error_kinds(box[None], image.boxes)[0]) if image.rank == 0 else _CLASSIFICATION
        row["error"] = ERROR_KINDS[kind]
    if prediction.score is not None and image.mask is not None and thresholds.tuned.mask is not None:
        row |= _count_pixels(prediction.score >= MASK_THRESHOLDS[thresholds.tuned.mask], image.mask, image.ignore)
    return row


def _count_pixels(found: Mask, mask: Mask, ignore: Mask) -> dict[str, int]:
    counted = mask | ~ignore
    return {
        "mask_pixels": int(mask.sum()),
        "found_pixels": int((found & counted).sum()),
        "shared_pixels": int((found & mask).sum()),
    }
