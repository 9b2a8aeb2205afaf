"""The truth of the images of an atlas, by shard."""

from collections.abc import Callable
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store import MapReader
from pipeline.truth.truth_faults import TruthFaults
from pipeline.truth.truth_set import TruthMatcher, TruthSet
from pipeline.utils.concurrency import concurrent_map
from schemas.samples import SampleStatus, class_columns, class_ids, may_lack


def match_truth(
    atlas: MapReader, truth: TruthSet, target: str, log: Callable[[str], None] = lambda line: None
) -> dict[str, TruthSet]:
    """Return the part of a truth that belongs to the images of each finished shard, by name; some may be empty.

    Args:
        atlas: of the images.
        truth: of some of them.
        target: of the maps, as the atlas names it.
        log: called with each sign that the truth of images with maps means something else than its format says.

    Raises:
        UsageError: a truth would be that of two samples, or is of another size or an unknown orientation than the image
            of a map; a mask cannot be read.
    """
    parts, matcher, faults, spec = {}, TruthMatcher(truth), TruthFaults(), atlas.run.spec
    columns = ["key", "status", "width", "height", "orientation"]
    of_target = class_columns(target) if may_lack(target) else ()
    read = partial(atlas.samples_of, columns=[*columns, *of_target])
    for shard, table in zip(atlas.shard_names, concurrent_map(read, atlas.shard_names), strict=True):
        has_map = pc.equal(table["status"].cast(pa.string()), SampleStatus.OK)
        if of_target:
            has_map = pc.and_(has_map, pc.is_valid(class_ids(table, target, spec.target_names)))
        keys = []
        for sample, is_mapped in zip(table.select(columns).to_pylist(), has_map.to_pylist(), strict=True):
            if sample["status"] == SampleStatus.DUPLICATE_KEY:
                continue
            keys.append(sample["key"])
            found = matcher.match(shard, sample["key"])
            if is_mapped and found is not None and found.is_annotated:
                faults.add(found, found.place(sample, spec.exif)[0])
        parts[shard] = truth.subset(keys)
    for warning in faults.describe(truth.name):
        log(warning)
    return parts
