"""Refinement of masks by a promptable segmenter, in the original images."""

from collections.abc import Iterable
from dataclasses import replace

from pipeline.label.formats.sam import make_prompts
from pipeline.label.mask import Label, with_mask
from pipeline.label.refine import make_segmenter
from pipeline.store import MapReader
from pipeline.store.images import read_original_images
from pipeline.utils.io import refuse_commands
from schemas.labels import LabelStatus
from schemas.policy import Policy, Sam


def defer_area(policy: Policy) -> Policy:
    """Return a policy whose labels are not filtered by area, which a refinement of the mask changes."""
    return policy.model_copy(update={"filter": policy.filter.model_copy(update={"area": (0.0, 1.0)})})


def refine_masks(
    atlas: MapReader, shard: str, labels: Iterable[Label], policy: Policy, spec: Sam, allow_pipe: bool
) -> list[Label]:
    """Return labels with the masks of a segmenter in place of those that prompt it, filtered by area.

    Of the ignored pixels only those stay that the network did not see and the segmenter has not found: it has decided
    the others. An empty mask prompts nothing and stays empty. Labels lose their heatmap, which their mask is not of.

    Args:
        atlas: the atlas with the maps.
        shard: short name of the shard.
        labels: of all its samples, by ``defer_area`` of the policy.
        policy: how maps become masks.
        spec: its refinement.
        allow_pipe: the images may be read from the shell command that the atlas names.

    Raises:
        CorruptShardError: images cannot be read, or are not those that the maps were made of.
        UsageError: the checkpoint cannot be used.
    """
    atlas_shard = atlas.shard(shard)
    refuse_commands([atlas_shard.planned.url], allow_pipe)
    found = [label.without_heatmap() for label in labels]
    prompted = [ordinal for ordinal, label in enumerate(found) if label.mask_rle is not None and label.boxes]
    segment = make_segmenter(spec) if prompted else None
    for ordinal, pixels in read_original_images(atlas_shard, prompted):
        assert segment is not None
        label = found[ordinal]
        mask = segment(pixels, make_prompts(label))
        ignore = label.unseen & ~mask
        found[ordinal] = with_mask(label, mask, ignore, policy.filter.area)
    for ordinal, label in enumerate(found):
        if label.status == LabelStatus.EMPTY and policy.filter.area[0] > 0:
            found[ordinal] = replace(label, status=LabelStatus.TOO_SMALL, mask_rle=None, ignore_rle=None)
    return found
