"""Random choice of whole batches of a run, since the last bits of a map depend on the batch that it is computed in."""

import numpy as np

from pipeline.store import MapReader

Selection = tuple[str, tuple[int, ...]]
"""A shard, and ordinals of its samples."""


def sample_batches(atlas: MapReader, count: int | None, seed: int) -> list[Selection]:
    """Choose batches at random until they hold ``count`` samples that have maps.

    Args:
        atlas: the atlas with the maps.
        count: number of samples, of which the last batch may give only some; None takes all batches.
        seed: random seed of the choice.

    Returns:
        The samples with maps of one batch each, in the order in which the batches were chosen.
    """
    rows, slot = np.sort(atlas.samples_with_maps(["row"])["row"].to_numpy()), atlas.run.slot
    batch = rows // slot * slot + rows % slot // atlas.run.spec.batch_size
    batches, batch_index = np.unique(batch, return_inverse=True)
    priority = np.random.default_rng(seed).permutation(len(batches))[batch_index]
    order = np.argsort(priority, kind="stable")[:count]
    ends = np.flatnonzero(np.diff(priority[order])) + 1
    chosen = [part for part in np.split(rows[order], ends) if len(part)]
    return [(atlas.run.shards[int(part[0]) // slot].name, tuple((part % slot).tolist())) for part in chosen]


def group_by_shard(selections: list[Selection]) -> list[Selection]:
    """Return the samples by shard, both in their order in the atlas; then each shard is read once."""
    by_shard: dict[str, list[int]] = {}
    for shard, ordinals in selections:
        by_shard.setdefault(shard, []).extend(ordinals)
    return [(shard, tuple(sorted(by_shard[shard]))) for shard in sorted(by_shard)]
