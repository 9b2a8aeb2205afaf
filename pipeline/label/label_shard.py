"""The labels of one shard, from the maps of an atlas and, where a policy refines them, from the pictures."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from pipeline.label.combine import combine
from pipeline.label.mask import Heatmap, Label, make_label
from pipeline.label.refine import refiner
from pipeline.store import Atlas, AtlasShard
from pipeline.store.images import pictures
from pipeline.utils.io import refuse_commands
from schemas.errors import UsageError
from schemas.labels import LabelStatus
from schemas.layout import Flag
from schemas.policy import Policy
from schemas.samples import SampleStatus

_BATCH = 32
"""Pictures that are refined together."""


def check_policy(atlas: Atlas, policy: Policy) -> None:
    """Refuse a policy that cannot be applied to an atlas.

    Raises:
        UsageError: it lacks a method or the target, or has nothing yet.
    """
    try:
        atlas.require(policy.target, policy.methods)
    except UsageError as error:
        raise UsageError(f"policy {policy.name}: {error}") from None


def iter_labels(atlas: Atlas, shard: str, policy: Policy, allow_pipe: bool = False) -> Iterator[Label]:
    """Labels of one shard, in its order.

    Args:
        policy: calibrated.
        allow_pipe: a shard whose pictures are needed may be read from the shell command that the atlas names.

    Raises:
        UsageError: see ``check_policy``.
        CorruptShardError: pictures that are needed cannot be read, or are not those of which the maps are.
    """
    frame = atlas.run.model.input_size
    for heatmap, sample in iter_heatmaps(atlas, shard, policy, allow_pipe):
        if heatmap is not None:
            yield make_label(heatmap, sample, frame, policy)
        else:
            yield Label(sample, LabelStatus.NO_SIGNAL if sample["status"] == SampleStatus.OK else sample["status"])


def iter_heatmaps(
    atlas: Atlas, shard: str, policy: Policy, allow_pipe: bool = False
) -> Iterator[tuple[Heatmap | None, dict[str, Any]]]:
    """What masks are cut from, with the row of the sample table; None where no map of a sample says anything.

    Maps that are constant or were not finite are left out of those that are combined.

    Raises:
        UsageError, CorruptShardError: see ``iter_labels``.
    """
    atlas.offers(policy.target, policy.methods)
    part = atlas.shard(shard)
    ready = _combine_maps(part, policy)
    if policy.refine is None:
        yield from ready
        return
    refuse_commands([atlas.run.shards[part.commit.shard_index].url], allow_pipe)
    refine, begin = refiner(policy.refine), 0
    for ordinals, pixels in pictures(atlas.run, part, np.flatnonzero(part.good).tolist(), _BATCH):
        group = list(islice(ready, ordinals[-1] + 1 - begin))
        places = [ordinal - begin for ordinal in ordinals]
        begin += len(group)
        found = [
            (place, heatmap, seen) for place, seen in zip(places, pixels, strict=True) if (heatmap := group[place][0])
        ]
        if found:
            sharp = refine(
                np.stack([heatmap.values for _, heatmap, _ in found]), np.stack([seen for *_, seen in found])
            )
            for (place, heatmap, _), values in zip(found, sharp, strict=True):
                group[place] = replace(heatmap, values=values), group[place][1]
        yield from group
    yield from ready


def _combine_maps(part: AtlasShard, policy: Policy) -> Iterator[tuple[Heatmap | None, dict[str, Any]]]:
    maps = {name: part.maps(name, policy.target) for name in policy.methods}
    bounds = {name: part.ranges(name, policy.target) for name in policy.methods}
    flags = {name: part.flags(name, policy.target) for name in policy.methods}
    for place, sample in enumerate(part.samples.to_pylist()):
        good = [name for name in policy.methods if flags[name][place] == Flag.OK]
        if sample["status"] != SampleStatus.OK or not good:
            yield None, sample
            continue
        values, limits = ({name: every[name][place] for name in good} for every in (maps, bounds))
        yield Heatmap(*combine(values, limits, policy)), sample
