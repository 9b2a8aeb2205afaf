"""Random selection of the samples that metrics are computed for. It grows with the atlas."""

import heapq
from collections import defaultdict

from pipeline.store import MapReader
from schemas.base import sha256

SelectedSamples = dict[str, tuple[int, ...]]
"""Ordinals of the selected samples by shard, both in order. Shards without any are left out."""


def select_samples(atlas: MapReader, count: int, seed: int, target: str | None = None) -> SelectedSamples:
    """Select samples that have maps pseudo-randomly: the rows with the lowest hash of seed and row.

    A sample's hash depends on row and seed alone. Shards that are finished later add samples and displace as many
    others; all other selected samples stay.

    Args:
        atlas: atlas.
        count: largest number of samples.
        seed: seed of the hash.
        target: only samples with a map of this target; None is of any.
    """
    with_maps = atlas.samples_with_maps(["shard", "ordinal", "row"], target)
    rows = with_maps["row"].to_pylist()
    chosen = heapq.nsmallest(count, range(len(rows)), key=lambda index: sha256(f"{seed} {rows[index]}".encode()))
    ordinals: dict[str, list[int]] = defaultdict(list)
    for sample in with_maps.take(sorted(chosen)).to_pylist():
        ordinals[sample["shard"]].append(sample["ordinal"])
    return {shard: tuple(sorted(ordinals[shard])) for shard in sorted(ordinals)}
