"""Scores of open vocabulary: the maps of several classes of an image against points or masks of classes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.run.derive import DerivedProduct, derive
from pipeline.run.execution import ComputeOptions
from pipeline.score import class_metrics, point_metrics
from pipeline.score.aggregate import WEIGHTS
from pipeline.score.class_metrics import mean_defined
from pipeline.score.counters import ALL_GROUPS, TESTED_GROUPS, TUNING_GROUPS, ScoreCounts, from_npz
from pipeline.score.match_classes import match_classes
from pipeline.score.pixel_metrics import MASK_THRESHOLDS
from pipeline.score.printed_scores import print_classes
from pipeline.score.score_classes_shard import ClassScoring, count_shard
from pipeline.score.score_shard import counts_object
from pipeline.score.score_sources import default_output_dir
from pipeline.score.sources import AtlasSource
from pipeline.score.splits import ShardTruth, build_shard_truths, tuning_digest
from pipeline.store import MapReader, ObjectStore
from pipeline.store.derived import ProductStore
from pipeline.store.parquet import to_parquet
from pipeline.truth import TruthSet
from pipeline.truth.point_labels import PointTruth
from pipeline.utils.bootstrap import percentile_interval
from schemas.base import sha256
from schemas.commits import DerivedCommit
from schemas.errors import UsageError
from schemas.scores import CLASS_IOUS, CLASS_METRICS, CLASS_SCORES, ScoringSpec, TuningSplitRecord

TABLE, PER_CLASS = "class_scores.parquet", "class_ious.parquet"
PRINTED = ("class_scores.tex", "class_scores.md")
Floats = NDArray[np.float64]


def score_classes(
    atlas: MapReader,
    truth: TruthSet,
    target_kind: str = "label",
    methods: Sequence[str] = (),
    tuning_truth: TruthSet | None = None,
    subset: bool = False,
    out: str | None = None,
    class_names: Sequence[str] = (),
    options: ComputeOptions = ComputeOptions(),
    log: Callable[[str], None] = lambda line: None,
) -> pa.Table:
    """Score the maps of an atlas against a truth of classes. What is counted already is not counted again.

    Writes ``about.json``; for each shard ``counts/<shard>.npz`` and ``commits/<shard>.json``; then
    ``class_ious.parquet``, and ``class_scores.parquet``, ``.tex`` and ``.md``.

    Args:
        atlas: with the maps.
        truth: of its images, with ``classes``.
        target_kind: ``label``, ``predicted``, ``top`` or ``class``, of which all targets take part; or one target.
        methods: names of methods; empty is all.
        tuning_truth: truth of the images that thresholds are tuned on. None: see ``build_shard_truths``.
        subset: score the images and the classes that truth and atlas both have.
        out: folder or URL; None is ``default_output_dir``.
        class_names: of the network, by class id; empty takes those that the atlas has.
        options: of the computation.
        log: called with a message for each group of images or classes that is left out.

    Returns:
        A table as ``schemas.scores.CLASS_SCORES``, best first.

    Raises:
        UsageError: there is no such method or target; an image without truth, truth without an image, a class without a
            name or a map; ``out`` holds other scores. No table is written then.
    """
    url = atlas.url
    target_kind, targets = find_targets(atlas, target_kind)
    selected = atlas.select_methods(targets[0], methods)
    source = AtlasSource.of(atlas, target_kind)
    has_points = any(isinstance(image, PointTruth) for image in truth.by_key.values())
    # Nothing is tuned on points: their threshold is fixed.
    shard_truths = build_shard_truths(source, truth, None if has_points else tuning_truth or "by hash", subset, log)
    used: Sequence[int] = range(len(truth.classes))
    if has_points:
        used = sorted({place for part in shard_truths.values() for place in _classes_with_points(part.truth)})
    matched = match_classes(truth.classes, used, atlas.class_names(class_names), truth.name, subset, log)
    scored = dict(zip(matched, range(len(matched)), strict=True))
    scoring = ClassScoring(
        targets=targets,
        methods=selected,
        class_ids=tuple(matched.values()),
        scored=tuple(scored.get(place, -1) for place in range(len(truth.classes))),
        has_points=has_points,
        subset=subset,
    )
    tuning = TuningSplitRecord(
        truth=tuning_truth.digest if tuning_truth else None,
        name=tuning_truth.name if tuning_truth else None,
        keys=tuning_digest(shard_truths.values()),
    )
    about = ScoringSpec(
        run=atlas.run.run_hash,
        truth=truth.digest,
        name=truth.name,
        target=target_kind,
        subset=subset,
        tuning=tuning,
        classes=sha256(repr(sorted(matched.items())).encode()),
    )
    objects = ObjectStore(out or default_output_dir(url, truth, target_kind))
    names = tuple(truth.classes[place][-1] for place in matched)
    function = partial(count_shard, scoring)
    product = _ClassScores(
        "score",
        function,
        atlas,
        objects,
        about=about,
        methods=selected,
        shard_truths=shard_truths,
        scoring=scoring,
        names=names,
    )
    return derive(product, options)


def find_targets(atlas: MapReader, target_kind: str) -> tuple[str, tuple[str, ...]]:
    """Return a target kind, or a target by its name in the atlas, and the targets that it means.

    Args:
        atlas: with the maps.
        target_kind: see ``score_classes``.

    Raises:
        UsageError: the run has no such target.
    """
    names = atlas.run.spec.target_names
    of_kind = tuple(name for name in names if name.partition(":")[0] == target_kind)
    if of_kind:
        return target_kind, of_kind
    name = atlas.find_target(target_kind)
    return name, (name,)


def _classes_with_points(truth: TruthSet) -> set[int]:
    parts = [image.class_ids[image.is_yes] for image in truth.by_key.values() if isinstance(image, PointTruth)]
    return set(np.concatenate(parts).tolist()) if parts else set()


@dataclass(frozen=True, kw_only=True)
class _ClassScores(DerivedProduct[MapReader, ShardTruth, pa.Table]):
    """Counts of an atlas, shard by shard, and the tables that are made of them.

    Attributes:
        shard_truths: truth of the scored shards, by name.
        scoring: what is counted.
        names: of the scored classes.
    """

    about: ScoringSpec
    shard_truths: dict[str, ShardTruth]
    scoring: ClassScoring
    names: tuple[str, ...]

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(self.shard_truths)

    def is_complete(self, commit: DerivedCommit) -> bool:
        return set(self.scoring.methods) <= set(commit.items)

    def remove_summary(self) -> None:
        for name in (TABLE, PER_CLASS, *PRINTED):
            self.objects.delete(name)

    def inputs(self, shards: Sequence[str]) -> list[ShardTruth]:
        return [self.shard_truths[shard] for shard in shards]

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> pa.Table:
        total = {method: ScoreCounts(shapes=self.scoring.shapes) for method in self.scoring.methods}
        names = [counts_object(shard) for shard in self.shards]
        for name, data in zip(names, self.objects.read(names), strict=True):
            by_method = from_npz(data, f"{self.objects.url}/{name}", self.scoring.shapes)
            total = {method: counts + by_method[method] for method, counts in total.items()}
        statuses = sum((Counter(commit.counts) for commit in commits.values()), Counter[str]())
        rows, class_rows = [], []
        for method, counts in total.items():
            scores, ious = (score_points if self.scoring.has_points else score_pixels)(counts)
            rows.append(self._row(method, statuses) | scores)
            class_rows += self._class_rows(method, ious)
        if not rows[0]["images"]:
            raise UsageError(f"{self.source.url}: has no sample with maps and a class in {self.about.name}")
        best = "p_miou" if self.scoring.has_points else "miou_oracle"
        rows.sort(key=lambda row: -(row[best] or 0))
        table = pa.Table.from_pylist(rows, schema=CLASS_SCORES)
        objects.put(PER_CLASS, to_parquet(pa.Table.from_pylist(class_rows, schema=CLASS_IOUS)))
        for name, data in zip(PRINTED, print_classes(table.to_pylist(), self.about), strict=True):
            objects.put(name, data)
        objects.put(TABLE, to_parquet(table))
        return table

    def _row(self, method: str, statuses: Mapping[str, int]) -> dict[str, Any]:
        return {
            **AtlasSource.of(self.source, str(self.about.target)).identify(method),
            "without_maps": statuses.get("without_maps", 0),
            "classes_without_map": statuses.get("classes_without_map", 0),
        }

    def _class_rows(self, method: str, ious: Floats) -> list[dict[str, Any]]:
        names, ids = self.names, self.scoring.class_ids
        if not self.scoring.has_points:
            names, ids = ("background", *names), (-1, *ids)
        return [
            {"method": method, "class": class_id if class_id >= 0 else None, "name": name, "iou": _defined(iou)}
            for class_id, name, iou in zip(ids, names, ious.tolist(), strict=True)
        ]


def score_points(counts: ScoreCounts) -> tuple[dict[str, Any], Floats]:
    """Return the scores of points: columns of ``CLASS_SCORES``, and the IoU of each class in %, NaN if undefined."""
    total, replicates = counts.sums(ALL_GROUPS), counts.sums(ALL_GROUPS, WEIGHTS)
    (ious,) = point_metrics.class_ious(total)
    values = {"p_miou": mean_defined(ious[None]), "p_miou_pairs": point_metrics.pair_miou(total)}
    repeated = {
        "p_miou": mean_defined(point_metrics.class_ious(replicates)),
        "p_miou_pairs": point_metrics.pair_miou(replicates),
    }
    scores: dict[str, Any] = {"images": int(total["images"][0]), "classes": int(np.isfinite(ious).sum())}
    scores |= {"points_outside": int(total["outside"][0]), "threshold": point_metrics.THRESHOLD}
    return scores | _with_intervals(values, repeated), ious


def score_pixels(counts: ScoreCounts) -> tuple[dict[str, Any], Floats]:
    """Return the scores of masks: columns of ``CLASS_SCORES``, and the IoU of background and of each class.

    The IoUs are in %, at the best threshold; NaN if undefined.
    """
    total, tested = counts.sums(ALL_GROUPS), counts.sums(TESTED_GROUPS)
    oracle, chosen = class_metrics.best_threshold(total), class_metrics.best_threshold(counts.sums(TUNING_GROUPS))
    values, repeated = dict[str, Floats](), dict[str, Floats]()
    scores: dict[str, Any] = {"images": int(total["images"][0])}
    ious = np.full((1, total["truth"].shape[1]), np.nan)
    if oracle is not None:
        ious = class_metrics.class_ious(total, oracle)
        values["miou_oracle"] = mean_defined(ious)
        repeated["miou_oracle"] = mean_defined(class_metrics.class_ious(counts.sums(ALL_GROUPS, WEIGHTS), oracle))
        scores["threshold_oracle"] = float(MASK_THRESHOLDS[oracle])
    if chosen is not None:
        values["miou"] = mean_defined(class_metrics.class_ious(tested, chosen))
        repeated["miou"] = mean_defined(class_metrics.class_ious(counts.sums(TESTED_GROUPS, WEIGHTS), chosen))
        scores["threshold"] = float(MASK_THRESHOLDS[chosen])
    scores |= {"tuning_images": int(counts.sums(TUNING_GROUPS)["images"][0])}
    scores["classes"] = int((total["truth"][0, 1:] > 0).sum())
    return scores | _with_intervals(values, repeated), ious[0]


def _with_intervals(values: Mapping[str, Floats], replicates: Mapping[str, Floats]) -> dict[str, Any]:
    estimates = {name: _defined(float(value[0])) for name, value in values.items()}
    intervals = {
        name: None if estimates.get(name) is None else percentile_interval(replicates[name]) for name in CLASS_METRICS
    }
    return estimates | {"interval": intervals}


def _defined(value: float) -> float | None:
    return value if np.isfinite(value) else None
