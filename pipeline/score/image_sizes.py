"""Sizes of images that the truth does not give."""

from collections.abc import Sequence

from pipeline.score.sources import AtlasSource, ScoreSource
from pipeline.truth import TruthMatcher, TruthSet
from pipeline.utils.concurrency import concurrent_map
from schemas.errors import UsageError


def with_atlas_sizes(truth: TruthSet, sources: Sequence[ScoreSource]) -> TruthSet:
    """Return the truth with sizes of images that it lacks, where an atlas among the sources knows them.

    A size is that of the image which the coordinates are of, stored or upright. Atlases alone need no such sizes.

    Args:
        truth: of the images.
        sources: of predictions.

    Raises:
        UsageError: two atlases give an image other sizes; an object lies outside its image; nothing says whether
            coordinates are of the stored or of the upright image; a truth matches two samples.
    """
    atlases = [source for source in sources if isinstance(source, AtlasSource)]
    if len(atlases) == len(sources) or all(image.size is not None for image in truth.by_key.values()):
        return truth
    found: dict[str, tuple[tuple[int, int], str]] = {}
    for atlas in atlases:
        matcher = TruthMatcher(truth)
        for shard, images in zip(atlas.shard_names, concurrent_map(atlas.images, atlas.shard_names), strict=True):
            for image in images:
                one = None if image.is_duplicate else matcher.match(shard, image.key)
                size = None if one is None or one.size is not None else image.add_size(one).size
                if one is None or size is None:
                    continue
                first, url = found.setdefault(one.key, (size, atlas.url))
                if size != first:
                    both = f"{first[0]}×{first[1]} pixels in {url}, but {size[0]}×{size[1]} in {atlas.url}"
                    raise UsageError(f"{one.key}: is {both}; name atlases of the same images")
    return truth.with_sizes({key: size for key, (size, _) in found.items()}) if found else truth
