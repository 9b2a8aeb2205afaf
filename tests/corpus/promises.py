"""What reading promises of any bytes at all."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.read import PreprocessConfig, UndecodableImageError, decode_image
from pipeline.read.shard_reader import ShardScan, read_samples, scan_shard
from schemas.errors import CorruptShardError
from schemas.shard_record import ShardRecord

FRAME = PreprocessConfig(16, 16, "bicubic", "squash", 1.0, "center")


def decoded(data: bytes) -> bool:
    """Whether it is a picture: one that fills its frame, or ``UndecodableImageError``, and nothing else."""
    try:
        picture = decode_image(data, FRAME)
    except UndecodableImageError:
        return False
    assert picture.pixels.shape == (3, 16, 16)
    assert picture.width > 0 < picture.height
    assert picture.size == len(data)
    return True


def scanned(path: Path) -> tuple[ShardScan, list[bytes | None]]:
    """What a tar is found to be, and the images that are read from it, which are as many as were found.

    One without a problem is read to its end; one with a problem is refused for that very reason, unless its good
    front is kept.
    """
    found = scan_shard(str(path))
    shard = ShardRecord(name="a", url=str(path), samples=found.samples, size=found.size, fault=found.fault)
    if found.fault:
        with pytest.raises(CorruptShardError) as refused:
            list(read_samples(shard, 10**6))
        assert found.fault in str(refused.value)
        shard = replace(shard, partial=True)
    groups = list(read_samples(shard, 10**6)) if found.samples else []
    assert len(groups) == found.samples
    images = (each.image() for each in groups)
    return found, [image.data if image else None for image in images]
