"""Tables of all maps: statistics of every map and agreement of every pair of methods, shard by shard, and means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.audit.agreement import compare_pairs
from pipeline.audit.join_metrics import ShardMetrics, metric_hashes
from pipeline.audit.map_statistics import compute_coverage, compute_object_mass, compute_statistics
from pipeline.image.score_map import visible_window
from pipeline.run.derive import DerivedProduct, ShardResult, ShardTask, derive
from pipeline.run.execution import ComputeOptions
from pipeline.store import MapReader, ObjectStore
from pipeline.store.derived import ProductStore
from pipeline.store.parquet import from_parquet, to_parquet
from pipeline.truth import TruthSet
from pipeline.truth.match_atlas import match_truth
from schemas.audit_records import MANIFEST, AuditSpec
from schemas.audit_tables import AGREEMENT, AGREEMENT_METRICS, IMAGES, MAP_STATISTICS, METHODS, PAIRS, SAMPLED_METRICS
from schemas.commits import DerivedCommit
from schemas.layout import Flag
from schemas.samples import class_ids

Floats = NDArray[np.float64]
Compared = Sequence[tuple[str, str, Mapping[str, Floats]]]


def write_map_tables(
    atlas: MapReader,
    out: str,
    target: str = "label",
    methods: Sequence[str] = (),
    truth: TruthSet | None = None,
    options: ComputeOptions = ComputeOptions(),
) -> dict[str, pa.Table]:
    """Write the tables of an atlas. What exists already is not computed again.

    Writes ``about.json``; for each shard ``images/<shard>.parquet``, ``pairs/<shard>.parquet`` and
    ``commits/<shard>.json``; then ``methods.parquet`` and ``agreement.parquet``. Columns are in
    ``schemas.audit_tables``.

    Args:
        atlas: the atlas with the maps.
        out: output folder or URL; values of ``pipeline.metrics`` in it become columns of the same images.
        target: target kind of the maps.
        methods: names of methods; empty is all.
        truth: truth of the images; without it there is no ``object_mass``.
        options: where it is computed.

    Returns:
        The tables ``methods`` and ``agreement``.

    Raises:
        UsageError: no such method or target, no finished shard, truth that cannot be used or is of another size, or
            ``out`` holds tables of something else.
    """
    return derive(open_map_tables(atlas, out, target, methods, truth), options)


def open_map_tables(
    atlas: MapReader, out: str, target: str, methods: Sequence[str], truth: TruthSet | None
) -> "MapTables":
    """Return the tables of an atlas as a derived product. Arguments and errors: see ``write_map_tables``."""
    names, target = atlas.select_methods(target, methods), atlas.find_class_target(target)
    digest = truth.digest if truth is not None else None
    about = AuditSpec(run=atlas.run.run_hash, target=target, methods=names, truth=digest)
    function = partial(_tabulate_shard, about)
    return MapTables("audit", function, atlas, ObjectStore(out), about=about, methods=names, truth=truth)


@dataclass(frozen=True, kw_only=True)
class MapTables(DerivedProduct[MapReader, TruthSet | None, dict[str, pa.Table]]):
    """The tables of an atlas as a derived product."""

    about: AuditSpec
    truth: TruthSet | None

    def is_complete(self, commit: DerivedCommit) -> bool:
        return commit.items == metric_hashes(self.objects.url, commit.shard, commit.parent)

    def inputs(self, shards: Sequence[str]) -> list[TruthSet | None]:
        return split_truth_by_shard(self.source, shards, self.truth, self.about.target)

    def remove_summary(self) -> None:
        for name in (MANIFEST, *(f"{name}.parquet" for name in SUMMARIES)):
            self.objects.delete(name)

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> dict[str, pa.Table]:
        tables = {}
        for name, (folder, keys, metric, schema) in SUMMARIES.items():
            parts = map(from_parquet, objects.read([f"{folder}/{shard}.parquet" for shard in self.shards]))
            tables[name] = compute_group_means(parts, keys, metric, schema)
            objects.put(f"{name}.parquet", to_parquet(tables[name]))
        return tables


SUMMARIES = {
    "methods": ("images", ("method",), "entropy", METHODS),
    "agreement": ("pairs", ("first", "second"), "spearman", AGREEMENT),
}
"""Tables of means: folder of the tables of the shards, columns to group by, column that must be defined, schema."""


def split_truth_by_shard(
    atlas: MapReader, shards: Sequence[str], truth: TruthSet | None, target: str
) -> list[TruthSet | None]:
    """Return the part of the truth that belongs to the images of each shard. Errors: see ``match_truth``."""
    if truth is None:
        return [None] * len(shards)
    parts = match_truth(atlas, truth, target)
    return [parts[shard] for shard in shards]


def _tabulate_shard(about: AuditSpec, task: ShardTask[MapReader, TruthSet | None]) -> ShardResult:
    objects, url, target = task.objects, task.objects.url, about.target
    shard = task.source.shard(task.shard)
    # Hashed before the values are read: if they change, the tables are made again.
    items = metric_hashes(url, task.shard, task.content_hash)
    has_maps = shard.has_maps_of(target)
    samples = shard.samples.filter(pa.array(has_maps))
    classes = class_ids(samples, target, shard.run.spec.target_names)
    flags = {method: shard.flags(method, target)[has_maps] for method in about.methods}
    maps = {
        method: np.where(_has_values(flags[method])[:, None, None], shard.maps(method, target)[has_maps], np.nan)
        for method in about.methods
    }
    compared = list(compare_pairs(maps))
    covered = _object_coverage(samples, task.data, task.source)
    metrics = ShardMetrics(url, task.shard, task.content_hash, target)
    images = _tabulate_images(samples, classes, maps, flags, compared, covered, metrics)
    written = (
        objects.put(f"images/{task.shard}.parquet", to_parquet(images)),
        objects.put(f"pairs/{task.shard}.parquet", to_parquet(_tabulate_pairs(samples, classes, compared))),
    )
    return ShardResult(written, {"images": len(samples)}, items)


def _tabulate_images(
    samples: pa.Table,
    classes: pa.ChunkedArray,
    maps: Mapping[str, NDArray[np.floating]],
    flags: Mapping[str, NDArray[np.uint8]],
    compared: Compared,
    covered: Floats,
    metrics: ShardMetrics,
) -> pa.Table:
    """Build ``schemas.audit_tables.IMAGES`` of a shard, method by method.

    Args:
        samples: the n samples with maps.
        classes: int32 [n], classes that the maps explain.
        maps: [n, h, w] by method, NaN in constant maps and those that were not finite.
        flags: [n] by method, see ``schemas.layout.Flag``.
        compared: agreement of each pair of methods.
        covered: [n, h, w], share of each cell that the object covers; NaN without truth.
        metrics: metric values of the shard.
    """
    agreement = _mean_agreement(maps, compared)
    # NaN comes last; ties are in the order of the methods.
    order = np.argsort(np.nan_to_num(-np.stack(list(agreement.values())), nan=np.inf), axis=0, kind="stable")
    ranks = np.argsort(order, axis=0) + 1
    parts = []
    for place, (method, values) in enumerate(maps.items()):
        valid = _has_values(flags[method])
        valid_maps = np.where(valid[:, None, None], values, 0)
        statistics = compute_statistics(valid_maps)
        statistics |= {"object_mass": compute_object_mass(valid_maps, covered), "agreement": agreement[method]}
        columns: dict[str, Any] = {
            "row": samples["row"],
            "key": samples["key"],
            "class": classes,
            "correct": pc.equal(samples["label"], samples["prediction"]),
            "method": [method] * len(samples),
            "flag": [Flag(flag).name.lower() for flag in flags[method]],
            **{name: _nan_to_null(np.where(valid, statistics[name], np.nan)) for name in MAP_STATISTICS},
            "object_area": _nan_to_null(covered.mean((1, 2))),
            "agreement_rank": pa.array(ranks[place], mask=np.isnan(agreement[method])),
            **{name: _nan_to_null(metrics.column(method, name, samples["row"].to_numpy())) for name in SAMPLED_METRICS},
        }
        parts.append(pa.table(columns).cast(IMAGES))
    return pa.concat_tables(parts)


def _has_values(flags: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.isin(flags, (Flag.OK, Flag.ISOLATED))


def _mean_agreement(maps: Mapping[str, NDArray[np.floating]], compared: Compared) -> dict[str, Floats]:
    """Return the mean rank correlation of each method with the others: [n] by method, NaN without any."""
    agreement: dict[str, Floats] = {}
    for method, values in maps.items():
        correlations = [metrics["spearman"] for *pair, metrics in compared if method in pair]
        if correlations:
            count = np.isfinite(correlations).sum(0)
            agreement[method] = np.nansum(correlations, axis=0) / np.where(count, count, np.nan)
        else:
            agreement[method] = np.full(len(values), np.nan)
    return agreement


def _tabulate_pairs(samples: pa.Table, classes: pa.ChunkedArray, compared: Compared) -> pa.Table:
    """Build ``schemas.audit_tables.PAIRS`` of a shard, pair by pair."""
    parts = [PAIRS.empty_table()]
    for first, second, metrics in compared:
        columns: dict[str, Any] = {
            "row": samples["row"],
            "class": classes,
            "first": [first] * len(samples),
            "second": [second] * len(samples),
            **{name: _nan_to_null(metrics[name]) for name in AGREEMENT_METRICS},
        }
        parts.append(pa.table(columns).cast(PAIRS))
    return pa.concat_tables(parts)


def _nan_to_null(values: Floats) -> pa.Array:
    """Return values with null for NaN."""
    return pa.array(values, pa.float64(), from_pandas=True)


def _object_coverage(samples: pa.Table, truth: TruthSet | None, atlas: MapReader) -> Floats:
    """Return the share of each cell that objects cover: [n, h, w], NaN for images without truth."""
    model = atlas.run.model
    covered = np.full((len(samples), *model.grid), np.nan)
    if truth is None:
        return covered
    for place, sample in enumerate(samples.to_pylist()):
        image_truth = truth.find_annotated(sample["key"])
        if image_truth is not None:
            view = visible_window(sample, model.input_size)
            coverage = compute_coverage(image_truth.for_sample(sample, atlas.run.spec.exif), view, model.grid)
            covered[place] = np.nan if coverage is None else coverage
    return covered


def compute_group_means(tables: Iterable[pa.Table], keys: Sequence[str], defined: str, schema: pa.Schema) -> pa.Table:
    """Compute means by group and class of tables that come one by one. Equal tables give equal bytes.

    Args:
        tables: tables with the columns ``class``, ``keys`` and those that are float64 in the schema.
        keys: columns to group by.
        defined: column that is null in rows without values.
        schema: ``keys``, ``class``, number of rows, number of rows without values, and means; null for no values.

    Returns:
        A table with this schema: one row per group and class, and one per group with a null class, which is first.
    """
    names = [field.name for field in schema if pa.types.is_floating(field.type)]
    sums: pa.Table | None = None
    for table in tables:
        columns = {name: pc.cast(table[name], pa.string()) for name in keys} | {"class": table["class"]}
        for name in names:
            values = pc.cast(table[name], pa.float64())
            columns[name] = pc.fill_null(values, 0.0)
            columns[f"{name} count"] = pc.cast(pc.is_valid(values), pa.int64())
        rows = pa.chunked_array([pa.repeat(pa.scalar(1, pa.int64()), len(table))])
        addends = pa.table(columns | {"rows": rows, "defined": pc.cast(pc.is_valid(table[defined]), pa.int64())})
        sums = _sum_groups(addends if sums is None else pa.concat_tables([sums, addends]), (*keys, "class"))
    if sums is None:
        return schema.empty_table()
    all_classes = _sum_groups(sums.drop_columns("class"), keys)
    all_classes = all_classes.append_column("class", pa.nulls(len(all_classes), pa.int32()))
    groups = pa.concat_tables([all_classes.select(sums.column_names), sums])
    groups = groups.append_column("order", pc.fill_null(groups["class"], -1))
    groups = groups.sort_by([(name, "ascending") for name in (*keys, "order")])
    counts = [groups["rows"], pc.subtract(groups["rows"], groups["defined"])]
    means = [pc.divide(groups[name], _null_if_zero(groups[f"{name} count"])) for name in names]
    return pa.table([*(groups[name] for name in (*keys, "class")), *counts, *means], names=schema.names).cast(schema)


def _sum_groups(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Sum all other columns by group, in the order in which groups first come."""
    others = [name for name in table.column_names if name not in keys]
    # Threads would add floats in any order.
    grouped = table.group_by(list(keys), use_threads=False).aggregate([(name, "sum") for name in others])
    return grouped.rename_columns([name.removesuffix("_sum") for name in grouped.column_names]).select(
        table.column_names
    )


def _null_if_zero(counts: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(pc.if_else(pc.greater(counts, 0), counts, None), pa.float64())
