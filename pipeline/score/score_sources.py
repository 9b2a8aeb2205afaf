"""Localization scores of atlases and of the predictions of other programs, in one table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.run.derive import DerivedProduct, derive_shards, write_product
from pipeline.run.execution import ComputeOptions
from pipeline.score.counted_source import CountedSource, TotalCounts
from pipeline.score.counters import ALL_GROUPS
from pipeline.score.finished_scores import check_comparison, check_scores, compare
from pipeline.score.image_rows import IMAGES, ImageRows, MethodThresholds, find_thresholds, write_rows
from pipeline.score.image_sizes import with_atlas_sizes
from pipeline.score.localization_table import ScoredSource, list_methods, write_table
from pipeline.score.score_shard import score_shard
from pipeline.score.scored_images import Log, MatchedSource, match_sources
from pipeline.score.sources import AtlasSource, ScoreSource
from pipeline.score.splits import ShardTruth, tuning_digest
from pipeline.score.threshold_grid import ThresholdGrid
from pipeline.store import MapReader, ObjectStore
from pipeline.store.derived import ProductStore
from pipeline.store.lease import check_lease
from pipeline.truth import TruthSet
from schemas.commits import DerivedCommit
from schemas.errors import UsageError
from schemas.layout import ABOUT, COMPARISON, SCORES
from schemas.scores import ComparisonSpec, ScoringSpec, TuningSplitRecord
from schemas.targets import folder_name

SOURCES, TUNING = "sources", "tuning"


def score(
    sources: MapReader | ScoreSource | Sequence[ScoreSource],
    truth: TruthSet,
    target_kind: str = "label",
    methods: Sequence[str] = (),
    tuning_truth: TruthSet | None = None,
    tuning_sources: MapReader | ScoreSource | Mapping[str, ScoreSource] | None = None,
    subset: bool = False,
    out: str | None = None,
    options: ComputeOptions = ComputeOptions(),
    log: Log = lambda line: None,
    grid: ThresholdGrid = ThresholdGrid(),
) -> pa.Table:
    """Score the predictions of sources. What is counted already is not counted again.

    Several sources are scored on the same images, and their bootstrap resamples the same groups of images. Writes
    ``about.json``, or of several ``comparison.json`` and all that follows in ``sources/<name>``; for each shard
    ``counts/<shard>.npz`` and ``commits/<shard>.json``; then ``images/rows/<shard>.parquet``; then ``curves.parquet``,
    ``.png`` and ``.pdf``, ``differences.parquet``, and ``localization.parquet``, ``.tex`` and ``.md``.

    Args:
        sources: an atlas, or sources as ``open_source`` returns them.
        truth: of their images.
        target_kind: of the maps, where ``sources`` is an atlas; ``label`` is GT-known in the literature.
        methods: names of methods, where ``sources`` is an atlas; empty is all.
        tuning_truth: truth of the images that thresholds are tuned on. None: see ``build_shard_truths``.
        tuning_sources: with the predictions of these images, by the name of the source that they belong to, or one for
            one source. None: the sources themselves.
        subset: score the images that truth and all sources have.
        out: folder or URL; None is ``default_output_dir``, where an atlas is scored alone.
        options: of the computation.
        log: called with a message for each group of images that is left out.
        grid: thresholds of boxes and of PxAP.

    Returns:
        A table as ``schemas.scores.LOCALIZATION``, best PxAP first; rows without one after them, best MaxBoxAccV2
        first.

    Raises:
        UsageError: there is no such method or target kind; an image without truth, truth without an image, truth of
            another size, an object or a prediction that cannot be used; sources of other images or of one name; ``out``
            holds other scores. No table is written then.
    """
    scored = _to_sources(sources, target_kind, methods)
    tuned = _match_tuning_sources(tuning_sources, scored, tuning_truth, target_kind)
    if out is None and (len(scored) > 1 or not _is_one_atlas(scored[0])):
        fault = "several sources, or files of other programs, need a folder for the results"
        raise UsageError(f"{fault}; name it with --out DIR")
    truth = with_atlas_sizes(truth, scored)
    if tuning_truth is not None:
        tuning_truth = with_atlas_sizes(tuning_truth, list(tuned.values()) or scored)
    matched = match_sources(scored, tuned, truth, tuning_truth, subset, log)
    objects = ObjectStore(out or default_output_dir(scored[0].url, truth, scored[0].target or ""))
    abouts = [_describe(each, subset, grid) for each in matched]
    folders = [""] if len(matched) == 1 else [f"{SOURCES}/{_file_name(source.name)}/" for source in scored]
    about: ScoringSpec | ComparisonSpec = abouts[0]
    if len(matched) == 1:
        check_scores(objects, abouts[0])
    else:
        about = compare(abouts, folders)
        check_comparison(objects, about)
    with write_product(objects, ABOUT if len(matched) == 1 else COMPARISON, about) as store:
        counted = [
            _count(each, each_about, folder, store, options)
            for each, each_about, folder in zip(matched, abouts, folders, strict=True)
        ]
        check_lease(store, store.lease.holder)
        scored_methods = list_methods(counted)
        for each, each_about, folder in zip(matched, abouts, folders, strict=True):
            of_source = [method for method in scored_methods if method.scored.source is each.source]
            thresholds = {method.method: find_thresholds(method, grid) for method in of_source}
            _write_image_rows(each, each_about, thresholds, f"{folder}{IMAGES}/", store, options)
        table = write_table(scored_methods, grid, abouts[0], store)
    if not table["test_images"][0].as_py():
        log("all images are in the tuning split, so none is left to test its thresholds on")
    return table


def _is_one_atlas(source: ScoreSource) -> bool:
    return isinstance(source, AtlasSource) and len(source.atlas.atlases) == 1


def default_output_dir(url: str, truth: TruthSet, target_kind: str) -> str:
    """Return the folder of scores if none is named: ``scores/<truth>-<target kind>`` in the atlas.

    Args:
        url: of the atlas.
        truth: that its maps are scored against.
        target_kind: of the maps.
    """
    return f"{url.rstrip('/')}/{SCORES}/{_file_name(truth.name) or 'truth'}-{folder_name(target_kind)}"


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")


def _to_sources(
    sources: MapReader | ScoreSource | Sequence[ScoreSource], target_kind: str, methods: Sequence[str]
) -> tuple[ScoreSource, ...]:
    """Return the sources. The names of several differ, also as names of folders on any file system."""
    if isinstance(sources, MapReader):
        target = sources.find_target(target_kind)
        return (AtlasSource.of(sources, target, sources.select_methods(target, methods)),)
    if isinstance(sources, ScoreSource):
        return (sources,)
    by_folder: dict[str, ScoreSource] = {}
    for source in sources:
        other = by_folder.setdefault(_file_name(source.name).lower(), source)
        if other is not source:
            both = f"{other.url} and {source.url}"
            raise UsageError(f"{both}: have one name in the table, {source.name}; give one another name as NAME=PATH")
    if "" in by_folder and len(by_folder) > 1:
        raise UsageError(f"{by_folder[''].url}: its name has no letter of a to z nor digit; name it by NAME=PATH")
    return tuple(by_folder.values())


def _match_tuning_sources(
    tuning: MapReader | ScoreSource | Mapping[str, ScoreSource] | None,
    scored: Sequence[ScoreSource],
    tuning_truth: TruthSet | None,
    target_kind: str,
) -> dict[str, ScoreSource]:
    """Return the tuning source of each source by its name; none, or one for each."""
    if tuning is None:
        return {}
    if isinstance(tuning, MapReader):
        tuning = AtlasSource.of(tuning, tuning.find_target(target_kind))
    by_name = {scored[0].name: tuning} if isinstance(tuning, ScoreSource) else dict(tuning)
    first = next(iter(by_name.values()))
    if tuning_truth is None:
        raise UsageError(f"{first.url}: name the truth of its images with --tune FILE|DIR")
    if by_name.keys() != {source.name for source in scored}:
        names = ", ".join(source.name for source in scored)
        raise UsageError(
            f"{first.url}: thresholds are tuned on the same images for all, so give such a source for each of {names}, "
            "as NAME=PATH, and no other"
        )
    return {source.name: _as_methods_of(source, by_name[source.name]) for source in scored}


def _as_methods_of(source: ScoreSource, tuning: ScoreSource) -> ScoreSource:
    """Return a tuning source with the methods of the source that it belongs to."""
    if (tuning.network, tuning.has_maps) != (source.network, source.has_maps):
        raise UsageError(
            f"{tuning.url}: is of another network than {source.url}, so its thresholds do not apply; "
            "name an atlas of the same network"
        )
    if isinstance(tuning, AtlasSource):
        tuning.atlas.select_methods(tuning.target, source.methods)
    return replace(tuning, methods=source.methods)


def _describe(matched: MatchedSource, subset: bool, grid: ThresholdGrid) -> ScoringSpec:
    source, truth, tuning_truth = matched.source, matched.truth, matched.tuning_truth
    return ScoringSpec(
        run=source.digest,
        truth=truth.digest,
        name=truth.name,
        target=source.target,
        subset=subset,
        tuning=TuningSplitRecord(
            truth=tuning_truth.digest if tuning_truth else None,
            name=tuning_truth.name if tuning_truth else None,
            atlas=matched.tuning_source.digest if matched.tuning_source else None,
            keys=tuning_digest((*matched.truths.values(), *matched.tuning_truths.values())),
        ),
        grid_step=grid.step,
    )


def _count(
    matched: MatchedSource, about: ScoringSpec, folder: str, store: ProductStore, options: ComputeOptions
) -> ScoredSource:
    """Count the images of a source, and those that only its thresholds are tuned on.

    Args:
        matched: the source with the truth of its images.
        about: settings of the counts.
        folder: of the counts in the output folder, with a slash at its end; empty: the output folder itself.
        store: output folder.
        options: of the computation.
    """
    if folder:
        store.put(f"{folder}{ABOUT}", about.to_bytes())

    def count(source: ScoreSource, truths: dict[str, ShardTruth], folder: str) -> TotalCounts:
        counts = CountedSource(
            "score",
            score_shard,
            source,
            ObjectStore(f"{store.url}/{folder}".rstrip("/")),
            about=about,
            methods=source.methods,
            tables=store,
            shard_truths=truths,
        )
        return counts.finish(_derive_inside(counts, folder, store, options), store)

    source = matched.source
    total = count(source, matched.truths, folder)
    if not total.by_method[source.methods[0]].counts["images"][ALL_GROUPS].any():
        raise UsageError(f"{source.url}: has no sample with maps and an object in {about.name}")
    if matched.tuning_source is None:
        return ScoredSource(source, total, {})
    tuning = count(matched.tuning_source, matched.tuning_truths, f"{folder}{TUNING}/")
    return ScoredSource(source, total, tuning.by_method)


def _write_image_rows(
    matched: MatchedSource,
    about: ScoringSpec,
    thresholds: Mapping[str, MethodThresholds],
    folder: str,
    store: ProductStore,
    options: ComputeOptions,
) -> None:
    """Write a row for each image and method of a source.

    Args:
        matched: the source with the truth of its images.
        about: settings of its counts.
        thresholds: of its methods.
        folder: of the rows in the output folder, with a slash at its end.
        store: output folder.
        options: of the computation.
    """
    objects = ObjectStore(f"{store.url}/{folder}".rstrip("/"))
    rows = ImageRows(
        "images",
        partial(write_rows, thresholds),
        matched.source,
        objects,
        about=about,
        methods=matched.source.methods,
        shard_truths=matched.truths,
        thresholds=thresholds,
    )
    _derive_inside(rows, folder, store, options)


def _derive_inside(
    product: DerivedProduct[ScoreSource, ShardTruth, Any], folder: str, store: ProductStore, options: ComputeOptions
) -> dict[str, DerivedCommit]:
    """Derive a product in a folder of the output folder, and record its commits there.

    Args:
        product: whose output folder it is.
        folder: its path in the output folder, with a slash at its end; empty: the output folder itself.
        store: output folder.
        options: of the computation.
    """
    recorded = {name.removeprefix(folder): sha for name, sha in store.last.items() if name.startswith(folder)}
    commits = derive_shards(product, options, recorded, store.lease)
    store.record_commits(commits.values(), folder)
    return commits
