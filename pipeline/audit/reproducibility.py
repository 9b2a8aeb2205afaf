"""Reproducibility: maps recomputed from the shards, with the batches of the run and with another batch size."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.run.execution import ComputeOptions, Device
from pipeline.run.parallel_map import parallel_map
from pipeline.run.sample_batches import Selection, group_by_shard, sample_batches
from pipeline.store import MapReader
from pipeline.store.shard_writer import minmax_scale
from pipeline.utils.io import refuse_commands
from pipeline.utils.shares import report_share
from schemas.audit_tables import OTHER_BATCH, REPRODUCIBILITY, SAME_BATCH
from schemas.errors import CorruptShardError
from schemas.samples import SampleStatus, has_map

COSTS = {SAME_BATCH: 1.0, OTHER_BATCH: 2.0}
"""Time of an image by kind, relative: alone it takes 2.4 times as long as in a batch of the demo network."""
_Row = dict[str, Any]


def build_reproducibility_table(
    atlas: MapReader,
    rows: int = 256,
    methods: Sequence[str] = (),
    seed: int = 0,
    options: ComputeOptions = ComputeOptions(),
    log: Callable[[str], None] = lambda line: None,
) -> pa.Table:
    """Recompute samples from the shards, as the run did and with another batch size, and compare all their maps.

    Whole batches of the run are chosen at random from all finished shards: a sample gets the same bytes only in the
    batch that it was computed in, so single samples would cost as many times more as a batch has samples. The other
    batch size is 1, so that no other sample can have an effect; 2 if that of the run was 1.

    Args:
        atlas: the atlas with the maps.
        rows: largest number of samples.
        methods: names of the methods to compare; empty is all.
        seed: random seed of the choice.
        options: where and on which device it is computed; may shell commands be run to read images.
        log: called with the amount of work, and with shards and samples that cannot be recomputed.

    Returns:
        ``schemas.audit_tables.REPRODUCIBILITY``: for each kind, the network and then the methods by target kind.

    Raises:
        UsageError: no such method, or no finished shard.
        SpecMismatchError: the network has changed.
    """
    refuse_commands((shard.url for shard in atlas.run.shards), options.allow_pipe)
    names = atlas.select_methods(atlas.run.stored_targets[0], methods)
    batch_sizes = {SAME_BATCH: atlas.run.spec.batch_size, OTHER_BATCH: 2 if atlas.run.spec.batch_size == 1 else 1}
    selections = group_by_shard(sample_batches(atlas, rows, seed))
    count = sum(len(ordinals) for _, ordinals in selections)
    log(f"{count} samples of {len(selections)} shards are recomputed twice, by {len(atlas.methods)} methods")
    comparisons: list[_Row] = []
    work = partial(_compare_shard, atlas, options.device, names, batch_sizes)
    for shard_comparisons, notes in parallel_map(work, selections, "recompute", options.address, gpu=True):
        comparisons += shard_comparisons
        for note in notes:
            log(note)
    groups = [(None, None), *((method, target) for method in names for target in atlas.run.spec.target_names)]
    table = [
        {"kind": kind, "batch_size": size, "method": method, "target": target, "sampled": count}
        | _summarize(
            [row for row in comparisons if (row["kind"], row["method"], row["target"]) == (kind, method, target)]
        )
        for kind, size in batch_sizes.items()
        for method, target in groups
    ]
    return pa.Table.from_pylist(table, schema=REPRODUCIBILITY)


def _compare_shard(
    atlas: MapReader, device: Device, methods: Sequence[str], batch_sizes: dict[str, int], selection: Selection
) -> tuple[list[_Row], list[str]]:
    """Return comparisons of all maps of the selected samples of a shard, and reasons why some are missing."""
    from pipeline.run.recompute_maps import cached_worker, recompute_rows  # torch, which most of an audit does not need

    shard, ordinals = selection
    worker = cached_worker(atlas.locate(shard), device)
    atlas_shard = atlas.shard(shard)
    samples = atlas_shard.samples.take(list(ordinals)).to_pylist()
    stored = {method: atlas_shard.array(method)[list(ordinals)] for method in methods}
    comparisons: list[_Row] = []
    notes: dict[str, None] = {}
    report_share(0)
    for kind, size in batch_sizes.items():
        unreported = Counter(ordinal // size for ordinal in ordinals)
        try:
            for place, (sample, raw, _) in enumerate(recompute_rows(worker, atlas_shard, ordinals, size)):
                if count := unreported.pop(ordinals[place] // size, 0):  # all of its batch are done
                    report_share(COSTS[kind] / sum(COSTS.values()) * count / len(ordinals))
                stored_sample = samples[place]
                if sample["status"] != SampleStatus.OK or sample["image_sha256"] != stored_sample["image_sha256"]:
                    notes[f"{shard}: {stored_sample['key']} cannot be recomputed: its image has changed"] = None
                    continue
                stored_maps = {method: stored[method][place] for method in methods}
                maps = {method: minmax_scale(raw[method])[0] for method in methods}
                targets = [
                    (index, target)
                    for index, target in enumerate(atlas.run.spec.target_names)
                    if has_map(stored_sample, index, target)
                ]
                rows = _compare_maps(stored_maps, maps, targets)
                comparisons += [{"kind": kind} | row for row in (_compare_network(stored_sample, sample), *rows)]
        except (CorruptShardError, OSError) as error:
            notes[f"{shard}: cannot be recomputed: {error}"] = None
    return comparisons, list(notes)


def _compare_network(stored: _Row, recomputed: _Row) -> _Row:
    # The sample table stores float32.
    difference = abs(float(np.float32(recomputed["probability"])) - stored["probability"])
    return {
        "method": None,
        "target": None,
        "equal_share": stored["prediction"] == recomputed["prediction"],
        "max_difference": difference,
        "mean_difference": difference,
        "spearman": np.nan,
    }


def _compare_maps(
    stored: dict[str, NDArray[np.float16]],
    recomputed: dict[str, NDArray[np.float16]],
    targets: Sequence[tuple[int, str]],
) -> Iterator[_Row]:
    """Compare the maps [K, h, w] of a sample, by method."""
    from pipeline.metrics.similarity import spearman

    for method, maps in stored.items():
        places = [index for index, _ in targets]
        maps, others = maps[places], recomputed[method][places]
        correlations = spearman(maps.reshape(len(targets), -1), others.reshape(len(targets), -1))
        differences = np.abs(maps.astype(np.float64) - others.astype(np.float64))
        for place, (_, target) in enumerate(targets):
            yield {
                "method": method,
                "target": target,
                "equal_share": np.array_equal(maps[place], others[place]),
                "max_difference": differences[place].max(),
                "mean_difference": differences[place].mean(),
                "spearman": correlations[place],
            }


def _summarize(comparisons: Sequence[_Row]) -> _Row:
    correlations = [row["spearman"] for row in comparisons if np.isfinite(row["spearman"])]
    columns = {
        "equal_share": [row["equal_share"] for row in comparisons],
        "mean_difference": [row["mean_difference"] for row in comparisons],
        "mean_spearman": correlations,
    }
    # Sums that do not depend on the order in which shards come.
    means = {name: math.fsum(values) / len(values) if values else None for name, values in columns.items()}
    return means | {
        "recomputed": len(comparisons),
        "max_difference": max((row["max_difference"] for row in comparisons), default=None),
        "min_spearman": min(correlations, default=None),
    }
