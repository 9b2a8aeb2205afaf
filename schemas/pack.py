"""Records of ``vitatlas pack``: what is packed, and the finished shards of a pack that is under way."""

from typing import Any

from pydantic import Field

from schemas.base import Count, Record

PACK = "pack.json"


class LeftOut(Record):
    """A file of the source that is in no shard.

    Attributes:
        name: its path in the source.
        reason: why it was left out.
    """

    name: str
    reason: str


class PackRecord(Record):
    """``pack.json``: what the folder holds. A pack of anything else into the same folder is refused.

    Attributes:
        source: kind of the source.
        split: name of the split.
        per_shard: largest number of samples in a shard.
        shards: number of shards.
        images: number of images that were found, of which some may be left out.
        classes: number of classes.
        listing: hash of the names, sizes and labels of all images, and of the names of the classes.
    """

    source: str
    split: str
    per_shard: Count
    shards: Count
    images: Count
    classes: Count
    listing: str


class PackedShard(Record):
    """A finished shard, kept until all are finished.

    Attributes:
        samples: number of its samples.
        size: in bytes.
        sha256: ``sha256:…`` of its contents.
        left_out: images that cannot be read.
        images: COCO image of each sample with truth, without its id.
        annotations: COCO annotations of each of these images, without their ids.
        new_names: name of the image in the shard by its name in the source.
    """

    samples: Count
    size: Count
    sha256: str
    left_out: tuple[LeftOut, ...] = ()
    images: tuple[dict[str, Any], ...] = ()
    annotations: tuple[tuple[dict[str, Any], ...], ...] = ()
    new_names: dict[str, str] = Field(default_factory=dict)
