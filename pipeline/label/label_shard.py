"""Labels of one shard, from its maps and, if the policy refines them, from its images."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from pipeline.label.combine import combine_in_image, combine_maps
from pipeline.label.mask import Heatmap, Label, make_label
from pipeline.label.prompted_masks import defer_area, refine_masks
from pipeline.label.refine import make_refiner
from pipeline.store import MapReader, ShardMaps
from pipeline.store.images import read_images
from pipeline.utils.io import refuse_commands
from pipeline.utils.shares import with_shares
from schemas.errors import UsageError
from schemas.labels import LabelStatus
from schemas.layout import Flag
from schemas.policy import Crf, Pamr, Policy, Sam
from schemas.samples import SampleStatus, explained_class, has_map

_BATCH_SIZE = 32
"""Images that are refined together."""


def check_policy(atlas: MapReader, policy: Policy) -> None:
    """Make sure that a policy can be applied to an atlas.

    Args:
        atlas: the atlas with the maps.
        policy: how maps become masks.

    Raises:
        UsageError: the atlas lacks a method or the target kind, or has no finished shard; or several atlases are
            joined, and the policy has no method of one, or refines maps that do not have the same cells.
    """
    try:
        atlas.select_methods(policy.target, policy.methods)
    except UsageError as error:
        raise UsageError(f"policy {policy.name}: {error}") from None
    for name, network in atlas.networks.items():
        if not any(method.rpartition(":")[0] == name for method in policy.methods):
            raise UsageError(f"policy {policy.name}: has no method of {name} ({network.url}); leave that atlas out")
    frames = {atlas.frame(method) for method in policy.methods}
    if isinstance(policy.refine, Pamr | Crf) and len(frames) > 1:
        raise UsageError(
            f"policy {policy.name}: {policy.refine.kind} refines on the input of one network, and its methods are of "
            "networks with other inputs or grids; leave out refine, or take sam, which refines the mask"
        )


def iter_labels(atlas: MapReader, shard: str, policy: Policy, allow_pipe: bool = False) -> Iterator[Label]:
    """Yield the labels of one shard, in its order.

    Args:
        atlas: the atlas with the maps.
        shard: short name of the shard.
        policy: how maps become masks; calibrated.
        allow_pipe: the images may be read from the shell command that the atlas names.

    Raises:
        UsageError: see ``check_policy``.
        CorruptShardError: images that the policy needs cannot be read, or are not those that the maps were made of.
    """
    if not isinstance(policy.refine, Sam):
        yield from _iter_map_labels(atlas, shard, policy, allow_pipe)
        return
    labels = _iter_map_labels(atlas, shard, defer_area(policy), allow_pipe)
    yield from refine_masks(atlas, shard, labels, policy, policy.refine, allow_pipe)


def _iter_map_labels(atlas: MapReader, shard: str, policy: Policy, allow_pipe: bool) -> Iterator[Label]:
    """Yield the labels of one shard, from its maps alone or from refined heatmaps."""
    input_size, targets = atlas.run.model.input_size, atlas.run.spec.target_names
    for heatmap, sample in iter_heatmaps(atlas, shard, policy, allow_pipe):
        if heatmap is not None:
            label = make_label(heatmap, sample, input_size, policy, targets)
        elif sample["status"] == SampleStatus.OK and not has_map(sample, targets.index(policy.target), policy.target):
            label = Label(sample, LabelStatus.NO_LABEL)
        elif sample["status"] == SampleStatus.OK:
            label = Label(sample, LabelStatus.NO_SIGNAL, class_id=explained_class(sample, policy.target, targets)[0])
        else:
            label = Label(sample, sample["status"])
        yield replace(label, exif=atlas.run.spec.exif)


def iter_heatmaps(
    atlas: MapReader, shard: str, policy: Policy, allow_pipe: bool = False
) -> Iterator[tuple[Heatmap | None, dict[str, Any]]]:
    """Yield the heatmap and the row of the sample table of each sample of a shard, in its order.

    Degenerate maps are left out: constant, not finite, or a few single patches. The heatmap is None if no map of the
    sample is left.

    Args and errors are those of ``iter_labels``.
    """
    atlas.check_planned(policy.target, policy.methods)
    atlas_shard = atlas.shard(shard)
    heatmaps = _combine_maps(atlas_shard, policy)
    if policy.refine is None or isinstance(policy.refine, Sam):
        yield from heatmaps
        return
    refuse_commands([atlas_shard.planned.url], allow_pipe)
    refine, start = make_refiner(policy.refine), 0
    with_maps = np.flatnonzero(atlas_shard.has_maps).tolist()
    for ordinals, images in read_images(atlas_shard, with_maps, _BATCH_SIZE):
        group = list(islice(heatmaps, ordinals[-1] + 1 - start))
        batch = [
            (index, heatmap, pixels)
            for index, pixels in zip((ordinal - start for ordinal in ordinals), images, strict=True)
            if (heatmap := group[index][0])
        ]
        start += len(group)
        if batch:
            refined = refine(
                np.stack([heatmap.values for _, heatmap, _ in batch]), np.stack([pixels for *_, pixels in batch])
            )
            for (index, heatmap, _), values in zip(batch, refined, strict=True):
                group[index] = replace(heatmap, values=values), group[index][1]
        yield from group
    yield from heatmaps


def _combine_maps(shard: ShardMaps, policy: Policy) -> Iterator[tuple[Heatmap | None, dict[str, Any]]]:
    maps = {name: shard.maps(name, policy.target) for name in policy.methods}
    bounds = {name: shard.ranges(name, policy.target) for name in policy.methods}
    flags = {name: shard.flags(name, policy.target) for name in policy.methods}
    frames = {name: shard.frame(name) for name in policy.methods}
    views = {name: shard.views(name) for name in policy.methods} if len(set(frames.values())) > 1 else None
    has_one_class = shard.has_one_class(policy.target, policy.methods)
    for ordinal, sample in enumerate(with_shares(shard.samples.to_pylist())):
        names = [name for name in policy.methods if flags[name][ordinal] == Flag.OK]
        if sample["status"] != SampleStatus.OK or not names:
            yield None, sample
            continue
        if not has_one_class[ordinal]:
            yield None, sample | {"status": LabelStatus.OTHER_CLASS}
            continue
        sample_maps, sample_bounds = ({name: values[name][ordinal] for name in names} for values in (maps, bounds))
        left_out = len(policy.methods) - len(names)
        if views is None:
            heatmap, agreement = combine_maps(sample_maps, sample_bounds, policy)
            yield Heatmap(heatmap, agreement, left_out=left_out), sample
            continue
        sample_views = {name: (views[name][ordinal], frames[name].input_size) for name in names}
        values, seen, agreement = combine_in_image(sample_maps, sample_bounds, sample_views, policy)
        yield Heatmap(values, agreement, seen, left_out), sample
