"""Localization scores of an atlas: every method against the truth."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.run.derive import DerivedProduct, derive, derive_shards
from pipeline.run.execution import ComputeOptions
from pipeline.score.aggregate import score_row
from pipeline.score.counters import ALL_GROUPS, ScoreCounts, from_npz
from pipeline.score.plots import curve_table, plot_scores
from pipeline.score.printed_scores import print_localization
from pipeline.score.score_shard import counts_object, score_shard
from pipeline.score.sources import AtlasSource, ScoreSource
from pipeline.score.splits import ShardTruth, build_shard_truths, build_tuning_truths
from pipeline.score.threshold_grid import ThresholdGrid
from pipeline.score.trivial_boxes import TRIVIAL_BOXES
from pipeline.store import Atlas, ObjectStore
from pipeline.store.derived import ProductStore, check_output_dir
from pipeline.store.parquet import to_parquet
from pipeline.truth import TruthSet
from schemas.base import sha256
from schemas.commits import DerivedCommit
from schemas.errors import UsageError
from schemas.layout import ABOUT, SCORES
from schemas.scores import LOCALIZATION, ScoringSpec, TuningSplitRecord, is_control
from schemas.targets import folder_name

TABLE, CURVES, TUNING = "localization.parquet", "curves.parquet", "tuning"
PRINTED, PLOTS = ("localization.tex", "localization.md"), ("curves.png", "curves.pdf")


def score(
    atlas: Atlas,
    truth: TruthSet,
    target_kind: str = "label",
    methods: Sequence[str] = (),
    tuning_truth: TruthSet | None = None,
    tuning_atlas: Atlas | None = None,
    subset: bool = False,
    out: str | None = None,
    options: ComputeOptions = ComputeOptions(),
    log: Callable[[str], None] = lambda line: None,
    grid: ThresholdGrid = ThresholdGrid(),
) -> pa.Table:
    """Score the maps of an atlas. Shards and methods that are counted already are not counted again.

    Writes ``about.json``; for each shard ``counts/<shard>.npz`` and ``commits/<shard>.json``; then ``curves.parquet``,
    ``.png`` and ``.pdf``, and ``localization.parquet``, ``.tex`` and ``.md``.

    Args:
        atlas: with the maps.
        truth: of its images.
        target_kind: of the maps; ``label`` is GT-known in the literature.
        methods: names of methods; empty is all.
        tuning_truth: truth of the images that thresholds are tuned on. None: see ``build_shard_truths``.
        tuning_atlas: with the maps of these images; None is ``atlas``.
        subset: score the images that truth and atlas both have.
        out: folder or URL; None is ``default_output_dir``.
        options: of the computation.
        log: called with a message for each group of images that is left out.
        grid: thresholds of boxes and of PxAP.

    Returns:
        A table as ``schemas.scores.LOCALIZATION``, best PxAP first.

    Raises:
        UsageError: there is no such method or target kind; an image without truth, truth without an image, truth of
            another size, an object that cannot be used; ``out`` holds other scores. No table is written then.
    """
    methods, url = atlas.select_methods(target_kind, methods), atlas.objects.url
    target_kind = atlas.find_target(target_kind)
    source = AtlasSource.of(atlas, target_kind, methods)
    if tuning_atlas is not None and tuning_truth is None:
        raise UsageError(f"{tuning_atlas.objects.url}: name the truth of its images with --tune FILE|DIR")
    shard_truths = build_shard_truths(source, truth, None if tuning_atlas else tuning_truth or "by hash", subset, log)
    tuning_truths: dict[str, ShardTruth] = {}
    tuning_source: AtlasSource | None = None
    if tuning_atlas is not None and tuning_truth is not None:
        tuning_atlas.select_methods(target_kind, methods)
        if tuning_atlas.run.model.weights != atlas.run.model.weights:
            raise UsageError(
                f"{tuning_atlas.objects.url}: is of another network than {url}, so its thresholds do not apply; "
                "name an atlas of the same network"
            )
        tuning_source = AtlasSource.of(tuning_atlas, target_kind, methods)
        tuning_truths = build_tuning_truths(tuning_source, tuning_truth, subset, log)
    parts = [*shard_truths.values(), *tuning_truths.values()]
    tuning_keys = {key for part in parts for key in (*part.tuning_keys, *part.tuning_only)}
    tuning = TuningSplitRecord(
        truth=tuning_truth.digest if tuning_truth else None,
        name=tuning_truth.name if tuning_truth else None,
        atlas=tuning_atlas.run.run_hash if tuning_atlas else None,
        keys=sha256("\n".join(sorted(tuning_keys)).encode()),
    )
    about = ScoringSpec(
        run=atlas.run.run_hash,
        truth=truth.digest,
        name=truth.name,
        target=target_kind,
        subset=subset,
        tuning=tuning,
        grid_step=grid.step,
    )
    objects = ObjectStore(out or default_output_dir(url, truth, target_kind))
    scores = _Scores(
        "score",
        score_shard,
        source,
        objects,
        about=about,
        methods=methods,
        tables=objects,
        shard_truths=shard_truths,
        options=options,
        log=log,
        grid=grid,
    )
    if tuning_source is not None:
        folder = ObjectStore(f"{objects.url}/{TUNING}")
        scores = replace(
            scores, tuning=replace(scores, source=tuning_source, objects=folder, shard_truths=tuning_truths)
        )
    return derive(scores, options)


def default_output_dir(url: str, truth: TruthSet, target_kind: str) -> str:
    """Return the folder of scores if none is named: ``scores/<truth>-<target kind>`` in the atlas.

    Args:
        url: of the atlas.
        truth: that its maps are scored against.
        target_kind: of the maps.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", truth.name).strip("-") or "truth"
    return f"{url.rstrip('/')}/{SCORES}/{name}-{folder_name(target_kind)}"


@dataclass(frozen=True, kw_only=True)
class _Scores(DerivedProduct[ScoreSource, ShardTruth, pa.Table]):
    """Counts of an atlas, shard by shard, and the tables and plot that are made of them.

    Attributes:
        tables: folder of the tables.
        shard_truths: truth of the scored shards, by name.
        tuning: counts of another atlas that thresholds are tuned on, in a folder below.
        options: of the computation.
        log: called with messages.
        grid: thresholds of boxes and of PxAP.
    """

    about: ScoringSpec
    tables: ObjectStore
    shard_truths: dict[str, ShardTruth]
    tuning: "_Scores | None" = None
    options: ComputeOptions
    log: Callable[[str], None]
    grid: ThresholdGrid

    def check_output(self) -> None:
        """Refuse to overwrite finished scores of something else; unfinished ones are continued."""
        finished = self.objects.exists(TABLE)
        may_differ = ("protocol", "tuning") if finished else tuple(ScoringSpec.model_fields)
        previous = check_output_dir(self.objects, ABOUT, self.about, may_differ)
        if finished and previous and _tuning_source(previous) != _tuning_source(self.about):
            url = self.objects.url
            raise UsageError(f"{url}: holds scores with another tuning split; name another --out, or remove it")

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(self.shard_truths)

    def is_complete(self, commit: DerivedCommit) -> bool:
        return {*TRIVIAL_BOXES, *self.source.methods} <= set(commit.items)

    def remove_summary(self) -> None:
        for name in (TABLE, CURVES, *PRINTED, *PLOTS):
            self.tables.delete(name)

    def inputs(self, shards: Sequence[str]) -> list[ShardTruth]:
        return [self.shard_truths[shard] for shard in shards]

    def sum_counts(self) -> dict[str, ScoreCounts]:
        """Return the counts of each method over all shards."""
        total = {method: ScoreCounts() for method in (*TRIVIAL_BOXES, *self.source.methods)}
        names = [counts_object(shard) for shard in self.shards]
        for name, data in zip(names, self.objects.read(names), strict=True):
            by_method = from_npz(data, f"{self.objects.url}/{name}")
            total = {method: counts + by_method[method] for method, counts in total.items()}
        return total

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> pa.Table:
        counts_by_method = self.sum_counts()
        if not counts_by_method[self.source.methods[0]].counts["images"][ALL_GROUPS].any():
            raise UsageError(f"{self.source.url}: has no sample with maps and an object in {self.about.name}")
        if self.tuning is not None:
            folder = f"{TUNING}/"
            recorded = {name.removeprefix(folder): sha for name, sha in objects.last.items() if name.startswith(folder)}
            objects.record_commits(derive_shards(self.tuning, self.options, recorded, objects.lease).values(), folder)
            tuning_counts = self.tuning.sum_counts()
            counts_by_method = {name: counts + tuning_counts[name] for name, counts in counts_by_method.items()}
        statuses = sum((Counter(commit.counts) for commit in commits.values()), Counter[str]())
        rows = [self._row(method, counts, statuses) for method, counts in counts_by_method.items()]
        if not rows[0]["test_images"]:
            self.log("all images are in the tuning split, so none is left to test its thresholds on")
        rows.sort(key=lambda row: (-(row["pxap"] or 0), -row["maxboxacc_v2"]))
        table = pa.Table.from_pylist(rows, schema=LOCALIZATION)
        curves = curve_table(counts_by_method, self.grid)
        objects.put(CURVES, to_parquet(curves))
        printed = zip(PRINTED, print_localization(table.to_pylist(), self.about), strict=True)
        for name, data in (*printed, *zip(PLOTS, plot_scores(table, curves), strict=True)):
            objects.put(name, data)
        objects.put(TABLE, to_parquet(table))
        return table

    def _row(self, method: str, counts: ScoreCounts, statuses: Mapping[str, int]) -> dict[str, Any]:
        return {
            **identify_row(self.source, method),
            "without_maps": statuses.get("without_maps", 0),
            "without_object": statuses.get("without_object", 0),
            **score_row(method, self.about.target, counts, self.grid),
        }


def identify_row(source: ScoreSource, method: str) -> dict[str, str | None]:
    """Return the columns of a table of scores that say what is scored.

    Args:
        source: of the predictions.
        method: that made them.
    """
    return {
        "source": source.name,
        "method": method,
        "kind": "control" if is_control(method) else "method",
        "target": source.target,
        "network": source.network,
    }


def _tuning_source(about: ScoringSpec) -> tuple[str | None, str | None]:
    return about.tuning.truth, about.tuning.atlas
