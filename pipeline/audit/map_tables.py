"""The tables of an audit: every map in numbers, every two methods compared, shard by shard; and their means."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.audit.agreement import compare_pairs
from pipeline.audit.group_means import compute_group_means
from pipeline.audit.map_statistics import compute_coverage, compute_object_mass, compute_statistics
from pipeline.audit.maps_by_class import EXPLAINED
from pipeline.audit.metric_columns import ShardMetrics, metric_hashes
from pipeline.image.score_map import window
from pipeline.run.parallel_map import parallel_map
from pipeline.store import Atlas, Lease, ObjectStore
from pipeline.store.derived import check_output_dir, content_hash, load_completed, remove_stale
from pipeline.store.parquet import from_parquet, to_parquet
from pipeline.truth import TruthSet
from pipeline.utils.concurrency import concurrent_map
from schemas.audit import AGREEMENT, AGREEMENT_METRICS, IMAGES, MAP_STATISTICS, METHODS, PAIRS, SAMPLED_METRICS
from schemas.audit_records import AuditRecord
from schemas.commits import DerivedCommit
from schemas.layout import ABOUT, Flag, commit_object
from schemas.run import TargetKind

Floats = NDArray[np.float64]
Compared = Sequence[tuple[str, str, Mapping[str, Floats]]]


def write_map_tables(
    url: str,
    out: str,
    target: TargetKind = "label",
    methods: Sequence[str] = (),
    truth: TruthSet | None = None,
    address: str | None = None,
) -> dict[str, pa.Table]:
    """Write the tables of an atlas. What is done already is not done again.

    Writes ``about.json``; for each shard ``images/<shard>.parquet``, ``pairs/<shard>.parquet`` and ``commits/<shard>.json``;
    then ``methods.parquet`` and ``agreement.parquet``. Columns are in ``schemas.audit``.

    Args:
        out: folder or URL; what ``pipeline.metrics`` measured in it becomes columns of the same pictures.
        methods: empty is all.
        truth: pictures of which it says nothing have no ``inside``.
        address: of a Ray cluster, see ``parallel_map``.

    Returns:
        ``methods`` and ``agreement``.

    Raises:
        UsageError: no such method or target, no finished shard, truth that cannot be used or is of another size, or
            ``out`` holds tables of something else.
    """
    atlas, objects = Atlas.open(url), ObjectStore(out)
    about = claim_tables(atlas, objects, target, methods, truth)
    with Lease(objects):
        objects.put(ABOUT, about.to_bytes())
        remove_stale(objects, atlas)
        records = load_completed(objects, atlas, about.digest())
        measured = concurrent_map(lambda record: metric_hashes(out, record.shard, record.parent), records.values())
        known = {
            shard for (shard, record), parts in zip(records.items(), measured, strict=True) if record.items == parts
        }
        pending = split_truth(atlas, [shard for shard in atlas.shard_names if shard not in known], truth)
        for _ in parallel_map(partial(_of_shard, atlas, about, out), pending, "audit", address):
            continue
        found = {
            "methods": compute_group_means(
                _read(objects, "images", atlas.shard_names), ("method",), "entropy", METHODS
            ),
            "agreement": compute_group_means(
                _read(objects, "pairs", atlas.shard_names), ("first", "second"), "spearman", AGREEMENT
            ),
        }
        for name, table in found.items():
            objects.put(f"{name}.parquet", to_parquet(table))
        objects.sweep()
    return found


def claim_tables(
    atlas: Atlas, objects: ObjectStore, target: TargetKind, methods: Sequence[str], truth: TruthSet | None
) -> AuditRecord:
    """What a folder of tables is made from, which it may not be made from anything else. Nothing is written.

    Raises:
        UsageError: see ``tables``.
    """
    chosen = tuple(dict.fromkeys(methods)) or atlas.methods
    atlas.require(target, chosen)
    about = AuditRecord(
        run=atlas.run.spec_hash, target=target, methods=chosen, truth=truth.digest if truth is not None else None
    )
    check_output_dir(objects, ABOUT, about)
    return about


def split_truth(atlas: Atlas, shards: Sequence[str], truth: TruthSet | None) -> list[tuple[str, TruthSet | None]]:
    """Shards, each with what is known of its pictures, to be sent to where they are worked on."""
    if truth is None:
        return [(shard, None) for shard in shards]
    samples = concurrent_map(partial(atlas.samples_of, columns=["key"]), shards)
    return [(shard, truth.subset(table["key"].to_pylist())) for shard, table in zip(shards, samples, strict=True)]


def _read(objects: ObjectStore, folder: str, shards: Sequence[str]) -> Iterable[pa.Table]:
    for data in objects.read([f"{folder}/{shard}.parquet" for shard in shards]):
        yield from_parquet(data)


def _of_shard(atlas: Atlas, about: AuditRecord, out: str, item: tuple[str, TruthSet | None]) -> DerivedCommit:
    shard, truth = item
    objects = ObjectStore(out)
    objects.delete(commit_object(shard))
    part = atlas.shard(shard)
    above = content_hash(part.commit)
    samples = part.samples.filter(pa.array(part.good))
    flags = {method: part.flags(method, about.target)[part.good] for method in about.methods}
    maps = {
        method: np.where(flags[method][:, None, None] == Flag.OK, part.maps(method, about.target)[part.good], np.nan)
        for method in about.methods
    }
    compared = list(compare_pairs(maps))
    covered = _covered(samples, truth, atlas)
    images = _images(
        samples, about.target, maps, flags, compared, covered, ShardMetrics(out, shard, above, about.target)
    )
    written = (
        objects.put(f"images/{shard}.parquet", to_parquet(images)),
        objects.put(f"pairs/{shard}.parquet", to_parquet(_pairs(samples, about.target, compared))),
    )
    record = DerivedCommit(
        shard=shard,
        parent=above,
        settings_hash=about.digest(),
        items=metric_hashes(out, shard, above),
        counts={"images": len(samples)},
        objects=written,
    )
    objects.put(commit_object(shard), record.to_bytes())
    return record


def _images(
    samples: pa.Table,
    target: TargetKind,
    maps: Mapping[str, NDArray[np.floating]],
    flags: Mapping[str, NDArray[np.uint8]],
    compared: Compared,
    covered: Floats,
    measured: ShardMetrics,
) -> pa.Table:
    """``schemas.audit.IMAGES`` of a shard, method by method.

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
            "inside": compute_object_mass(np.where(says[:, None, None], values, 0), covered),
            "agreement": agreement[method],
        }
        columns: dict[str, Any] = {
            "row": samples["row"],
            "key": samples["key"],
            "class": samples[EXPLAINED[target]],
            "correct": correct,
            "method": [method] * len(samples),
            "flag": [Flag(each).name.lower() for each in flags[method]],
            **{name: _known(np.where(says, numbers[name], np.nan)) for name in MAP_STATISTICS},
            "object": _known(covered.mean((1, 2))),
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
    """``schemas.audit.PAIRS`` of a shard, pair by pair."""
    parts = [PAIRS.empty_table()]
    for first, second, measured in compared:
        columns: dict[str, Any] = {
            "row": samples["row"],
            "class": samples[EXPLAINED[target]],
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
            seen = window(sample, model.input_size)
            found = compute_coverage(known, sample["width"], sample["height"], seen, model.grid)
            covered[place] = np.nan if found is None else found
    return covered
