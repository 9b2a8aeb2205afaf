"""Counts of one shard: the maps of several classes against a truth that has classes."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.image.orientation import orient_mask, orient_points
from pipeline.image.score_map import visible_window
from pipeline.run.derive import ShardResult, ShardTask
from pipeline.score.class_metrics import count_pixels, pixel_shapes
from pipeline.score.counters import TUNING_ONLY_GROUP, ScoreCounts, Shapes, bootstrap_group, from_npz, to_npz
from pipeline.score.point_metrics import count_points, point_shapes
from pipeline.score.score_shard import counts_object
from pipeline.score.splits import ShardTruth
from pipeline.store import MapReader, ShardMaps
from pipeline.truth.point_labels import PointTruth
from pipeline.truth.truth import Truth
from pipeline.truth.voc import IGNORED, ClassMaskTruth
from pipeline.utils.shares import with_shares
from schemas.errors import UsageError
from schemas.run_record import RunRecord
from schemas.samples import SampleStatus, class_ids


@dataclass(frozen=True)
class ClassScoring:
    """What is counted.

    Attributes:
        targets: of the maps.
        methods: names of methods.
        class_ids: class id of each scored class.
        scored: of each class of the truth, its index among the scored ones; −1 if it is not scored.
        has_points: the truth has points, not masks.
        subset: leave out classes of an image that have no map.
    """

    targets: tuple[str, ...]
    methods: tuple[str, ...]
    class_ids: tuple[int, ...]
    scored: tuple[int, ...]
    has_points: bool
    subset: bool

    @property
    def shapes(self) -> Shapes:
        """Shapes of the counts."""
        return (point_shapes if self.has_points else pixel_shapes)(len(self.class_ids))


def count_shard(scoring: ClassScoring, task: ShardTask[MapReader, ShardTruth]) -> ShardResult:
    """Count one shard and write its counts.

    Args:
        scoring: what is counted; methods that the previous commit has are not counted again.
        task: the shard and its truth.

    Raises:
        UsageError: a class of an image has no map; a mask cannot be used.
    """
    objects, name = task.objects, counts_object(task.shard)
    counts_by_method: dict[str, ScoreCounts] = {}
    if task.previous:
        counts_by_method = from_npz(objects.get(name), f"{objects.url}/{name}", scoring.shapes)
    new = [method for method in scoring.methods if method not in counts_by_method]
    counts_by_method |= {method: ScoreCounts(shapes=scoring.shapes) for method in new}
    shard, statuses = task.source.shard(task.shard), Counter[str]()
    columns = _map_columns(shard, scoring)
    maps = {method: np.stack([shard.maps(method, target) for target in scoring.targets], 1) for method in new}
    for index, sample in enumerate(with_shares(shard.samples.to_pylist())):
        truth, tuning_only = task.data.find(sample["key"])
        if truth is None or sample["status"] == SampleStatus.DUPLICATE_KEY:
            statuses["without_truth"] += 1
        elif sample["status"] != SampleStatus.OK:
            statuses["without_maps"] += 1
        else:
            statuses["scored"] += 1
            group = TUNING_ONLY_GROUP
            if not tuning_only:
                group = bootstrap_group(truth.key, truth.key in task.data.tuning_keys)
            image = _PlacedImage(truth, sample, task.source.run, scoring, columns[index])
            statuses["classes_without_map"] += image.classes_without_map
            for method in new:
                counts_by_method[method].add(group, image.count(maps[method][index]))
    written = objects.put(name, to_npz(counts_by_method))
    return ShardResult((written,), dict(sorted(statuses.items())), tuple(counts_by_method))


def _map_columns(shard: ShardMaps, scoring: ClassScoring) -> list[dict[int, int]]:
    """Return, for each sample, the place among the targets of the map of each class.

    Classes are indices of scored ones; −1, −2 … are others. Of several maps of one class the first is taken.
    """
    scored = {class_id: index for index, class_id in enumerate(scoring.class_ids)}
    columns: list[dict[int, int]] = [{} for _ in range(len(shard.samples))]
    for place, target in enumerate(scoring.targets):
        for row, class_id in zip(columns, explained_classes(shard, target), strict=True):
            if class_id is not None:
                row.setdefault(scored.get(class_id, -1 - place), place)
    return columns


def explained_classes(shard: ShardMaps, target: str) -> list[int | None]:
    """Return the class id that the map of a target explains, of each sample; None where there is none."""
    classes: list[int | None] = class_ids(shard.samples, target, shard.run.spec.target_names).to_pylist()
    return classes


class _PlacedImage:
    """The truth of an image in the coordinates of its maps.

    Attributes:
        classes_without_map: number of classes of the image that have no map.
    """

    def __init__(
        self, truth: Truth, sample: dict[str, Any], run: RunRecord, scoring: ClassScoring, columns: dict[int, int]
    ) -> None:
        placed, code = truth.place(sample, run.spec.exif)
        self._sample, self._run, self._scoring, self._columns = sample, run, scoring, columns
        scored = np.array(scoring.scored, np.int64)
        if isinstance(placed, PointTruth):
            self._points, self._is_yes = orient_points(placed.points, code), placed.is_yes
            self._class_ids = scored[placed.class_ids]
            present = set(self._class_ids[self._is_yes].tolist()) - {-1}
        else:
            assert isinstance(placed, ClassMaskTruth)
            by_value = np.array([0, *np.where(scored < 0, IGNORED, scored + 1), IGNORED])
            self._class_map = by_value[orient_mask(placed.class_map(), code)]  # −1 is the last
            present = set(np.unique(self._class_map[self._class_map > 0] - 1).tolist())
        missing = present - columns.keys()
        self.classes_without_map = len(missing)
        self._pairs = sorted(present - missing)
        if missing and scoring.has_points and not scoring.subset:
            raise UsageError(
                f"{sample['key']}: has points of class {scoring.class_ids[min(missing)]}, but no map of it; plan with "
                "that class as a target, or leave it out with --subset"
            )

    def count(self, maps: NDArray[np.floating]) -> dict[str, ArrayLike]:
        """Return the counts of one method, from its maps [K, h, w]."""
        classes, input_size = len(self._scoring.class_ids), self._run.model.input_size
        if self._scoring.has_points:
            window = visible_window(self._sample, input_size)
            by_class = {class_id: maps[self._columns[class_id]] for class_id in self._pairs}
            return count_points(by_class, self._class_ids, self._points, self._is_yes, window, classes)
        map_classes = [max(0, class_id + 1) for class_id in self._columns]
        of_classes = [maps[place] for place in self._columns.values()]
        return count_pixels(of_classes, map_classes, self._class_map, self._sample, input_size, classes)
