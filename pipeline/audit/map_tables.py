"""The tables of an audit: every map in numbers, every two methods compared, shard by shard; and their means."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.audit.agreement import compare_pairs
from pipeline.audit.group_means import compute_group_means
from pipeline.audit.map_statistics import compute_coverage, compute_object_mass, compute_statistics
from pipeline.audit.metric_columns import ShardMetrics, metric_hashes
from pipeline.image.score_map import visible_window
from pipeline.run.derive import DerivedProduct, ShardResult, ShardTask, derive
from pipeline.run.execution import ComputeOptions
from pipeline.store import Atlas, ObjectStore
from pipeline.store.parquet import from_parquet, to_parquet
from pipeline.truth import TruthSet
from pipeline.utils.concurrency import concurrent_map
from schemas.audit_records import MANIFEST, AuditRecord
from schemas.audit_tables import AGREEMENT, AGREEMENT_METRICS, IMAGES, MAP_STATISTICS, METHODS, PAIRS, SAMPLED_METRICS
from schemas.commits import DerivedCommit
from schemas.layout import Flag
from schemas.run import TargetKind
from schemas.samples import CLASS_COLUMNS

Floats = NDArray[np.float64]
Compared = Sequence[tuple[str, str, Mapping[str, Floats]]]


def write_map_tables(
    atlas: Atlas,
    out: str,
    target: TargetKind = "label",
    methods: Sequence[str] = (),
    truth: TruthSet | None = None,
    options: ComputeOptions = ComputeOptions(),
) -> dict[str, pa.Table]:
    """Write the tables of an atlas. What exists already is not computed again.

    Writes ``about.json``; for each shard ``images/<shard>.parquet``, ``pairs/<shard>.parquet`` and ``commits/<shard>.json``;
    then ``methods.parquet`` and ``agreement.parquet``. Columns are in ``schemas.audit_tables``.

    Args:
        atlas: the atlas with the maps.
        out: output folder or URL; values of ``pipeline.metrics`` in it become columns of the same images.
        target: target kind of the maps.
        methods: names of methods; empty is all.
        truth: truth of the images; without it there is no ``inside``.
        options: where it is computed.

    Returns:
        The tables ``methods`` and ``agreement``.

    Raises:
        UsageError: no such method or target, no finished shard, truth that cannot be used or is of another size, or
            ``out`` holds tables of something else.
    """
    return derive(MapTables(atlas, out, target, methods, truth), options)


class MapTables(DerivedProduct[TruthSet | None, dict[str, pa.Table]]):
    """The tables of an atlas as a derived product. Arguments and errors: see ``write_map_tables``."""

    about: AuditRecord

    def __init__(
        self, atlas: Atlas, out: str, target: TargetKind, methods: Sequence[str], truth: TruthSet | None
    ) -> None:
        names = tuple(dict.fromkeys(methods)) or atlas.methods
        atlas.require(target, names)
        digest = truth.digest if truth is not None else None
        about = AuditRecord(run=atlas.run.spec_hash, target=target, methods=names, truth=digest)
        super().__init__(atlas, ObjectStore(out), about, "audit")
        self.truth = truth

    def is_complete(self, commit: DerivedCommit) -> bool:
        return commit.items == metric_hashes(self.objects.url, commit.shard, commit.parent)

    def inputs(self, shards: Sequence[str]) -> list[TruthSet | None]:
        return split_truth(self.atlas, shards, self.truth)

    def shard_function(self) -> Callable[[ShardTask[TruthSet | None]], ShardResult]:
        return partial(_tabulate_shard, self.about)

    def remove_summary(self) -> None:
        for name in (MANIFEST, *(f"{name}.parquet" for name in _SUMMARIES)):
            self.objects.delete(name)

    def finish(self, commits: Mapping[str, DerivedCommit]) -> dict[str, pa.Table]:
        tables = {}
        for name, (folder, keys, metric, schema) in _SUMMARIES.items():
            tables[name] = compute_group_means(_read(self.objects, folder, self.shards), keys, metric, schema)
            self.objects.put(f"{name}.parquet", to_parquet(tables[name]))
        return tables


_SUMMARIES = {
    "methods": ("images", ("method",), "entropy", METHODS),
    "agreement": ("pairs", ("first", "second"), "spearman", AGREEMENT),
}
"""Tables of means: folder of the tables of the shards, columns to group by, column that must be defined, schema."""


def split_truth(atlas: Atlas, shards: Sequence[str], truth: TruthSet | None) -> list[TruthSet | None]:
    """Return the part of the truth that belongs to the images of each shard."""
    if truth is None:
        return [None] * len(shards)
    samples = concurrent_map(partial(atlas.samples_of, columns=["key"]), shards)
    return [truth.subset(table["key"].to_pylist()) for table in samples]


def _read(objects: ObjectStore, folder: str, shards: Sequence[str]) -> Iterable[pa.Table]:
    for data in objects.read([f"{folder}/{shard}.parquet" for shard in shards]):
        yield from_parquet(data)


def _tabulate_shard(about: AuditRecord, task: ShardTask[TruthSet | None]) -> ShardResult:
    objects, url, target = task.objects, task.objects.url, about.target
    shard = task.atlas.shard(task.shard)
    items = metric_hashes(
        url, task.shard, task.content_hash
    )  # before the values are read: if they change, it is made again
    samples = shard.samples.filter(pa.array(shard.good))
    flags = {method: shard.flags(method, target)[shard.good] for method in about.methods}
    maps = {
        method: np.where(flags[method][:, None, None] == Flag.OK, shard.maps(method, target)[shard.good], np.nan)
        for method in about.methods
    }
    compared = list(compare_pairs(maps))
    covered = _covered(samples, task.data, task.atlas)
    metrics = ShardMetrics(url, task.shard, task.content_hash, target)
    images = _images(samples, target, maps, flags, compared, covered, metrics)
    written = (
        objects.put(f"images/{task.shard}.parquet", to_parquet(images)),
        objects.put(f"pairs/{task.shard}.parquet", to_parquet(_pairs(samples, target, compared))),
    )
    return ShardResult(written, {"images": len(samples)}, items)


def _images(
    samples: pa.Table,
    target: TargetKind,
    maps: Mapping[str, NDArray[np.floating]],
    flags: Mapping[str, NDArray[np.uint8]],
    compared: Compared,
    covered: Floats,
    measured: ShardMetrics,
) -> pa.Table:
    """``schemas.audit_tables.IMAGES`` of a shard, method by method.

    Args:
        maps: [n, h, w] by method, NaN where they say nothing.
        covered: [n, h, w]; NaN where no truth is known.
    """
    correct = _correct(samples)
    agreement = _agreement(maps, compared)
    # Of what is not known, last; of what is equal, in the order of the methods.
    order = np.argsort(np.nan_to_num(-np.stack(list(agreement.values())), nan=np.inf), axis=0, kind="stable")
    ranks = np.argsort(order, axis=0) + 1
    parts = []
    for place, (method, values) in enumerate(maps.items()):
        says = flags[method] == Flag.OK
        numbers = compute_statistics(np.where(says[:, None, None], values, 0))
        numbers |= {
            "object_mass": compute_object_mass(np.where(says[:, None, None], values, 0), covered),
            "agreement": agreement[method],
        }
        columns: dict[str, Any] = {
            "row": samples["row"],
            "key": samples["key"],
            "class": samples[CLASS_COLUMNS[target]],
            "correct": correct,
            "method": [method] * len(samples),
            "flag": [Flag(each).name.lower() for each in flags[method]],
            **{name: _known(np.where(says, numbers[name], np.nan)) for name in MAP_STATISTICS},
            "object_area": _known(covered.mean((1, 2))),
            "agreement_rank": pa.array(ranks[place], mask=np.isnan(agreement[method])),
            **{name: _known(measured.of(method, name, samples["row"].to_numpy())) for name in SAMPLED_METRICS},
        }
        parts.append(pa.table(columns).cast(IMAGES))
    return pa.concat_tables(parts)


def _correct(samples: pa.Table) -> pa.Array:
    label, prediction = (samples[name].to_pylist() for name in ("label", "prediction"))
    return pa.array([None if one is None else one == other for one, other in zip(label, prediction, strict=True)])


def _agreement(maps: Mapping[str, NDArray[np.floating]], compared: Compared) -> dict[str, Floats]:
    """Mean rank correlation of each method with the others, NaN without any: [n] by method."""
    found: dict[str, Floats] = {}
    for method, values in maps.items():
        others = [measured["spearman"] for *both, measured in compared if method in both]
        known = np.isfinite(others).sum(0) if others else np.zeros(len(values))
        found[method] = np.nansum(others, axis=0) / np.where(known, known, np.nan) if others else known * np.nan
    return found


def _pairs(samples: pa.Table, target: TargetKind, compared: Compared) -> pa.Table:
    """``schemas.audit_tables.PAIRS`` of a shard, pair by pair."""
    parts = [PAIRS.empty_table()]
    for first, second, measured in compared:
        columns: dict[str, Any] = {
            "row": samples["row"],
            "class": samples[CLASS_COLUMNS[target]],
            "first": [first] * len(samples),
            "second": [second] * len(samples),
            **{name: _known(measured[name]) for name in AGREEMENT_METRICS},
        }
        parts.append(pa.table(columns).cast(PAIRS))
    return pa.concat_tables(parts)


def _known(values: Floats) -> pa.Array:
    """Null where it is NaN."""
    return pa.array(values, pa.float64(), from_pandas=True)


def _covered(samples: pa.Table, truth: TruthSet | None, atlas: Atlas) -> Floats:
    """Share of each cell that the object covers: [n, h, w]; NaN where nothing is known of a picture."""
    model = atlas.run.model
    covered = np.full((len(samples), *model.grid), np.nan)
    if truth is None:
        return covered
    for place, sample in enumerate(samples.to_pylist()):
        known = truth.find(sample["key"])
        if known is not None and known.is_annotated:
            seen = visible_window(sample, model.input_size)
            found = compute_coverage(known, sample["width"], sample["height"], seen, model.grid)
            covered[place] = np.nan if found is None else found
    return covered
