"""Which images are measured: a draw that grows with the atlas instead of starting anew."""

import heapq
from collections import defaultdict

import pyarrow.compute as pc

from pipeline.store import Atlas
from schemas.base import sha256
from schemas.samples import SampleStatus

SelectedSamples = dict[str, tuple[int, ...]]
"""Ordinals of the samples that are drawn, by shard, both in order; shards without any are left out."""


def select_samples(atlas: Atlas, images: int, seed: int) -> SelectedSamples:
    """So many of the samples that have maps, at random: those whose rows have the lowest hashes.

    A sample's hash depends on nothing but its row and the seed. So shards that are finished later add samples and push
    out others, as many; all that are drawn from before and after stay.
    """
    samples = atlas.samples(["shard", "ordinal", "row", "status"])
    good = samples.filter(pc.equal(samples["status"].cast("string"), SampleStatus.OK))
    rows = good["row"].to_pylist()
    chosen = heapq.nsmallest(images, range(len(rows)), key=lambda place: sha256(f"{seed} {rows[place]}".encode()))
    by_shard: dict[str, list[int]] = defaultdict(list)
    for sample in good.take(sorted(chosen)).to_pylist():
        by_shard[sample["shard"]].append(sample["ordinal"])
    return {shard: tuple(sorted(by_shard[shard])) for shard in sorted(by_shard)}
