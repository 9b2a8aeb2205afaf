"""Shards as an endless stream whose place is a number."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import timm
from support import samples, write_tar

from pipeline.explain.load import load_model
from pipeline.read import DecoderPool, PreprocessConfig, count_samples, expand_shards
from pipeline.train.image_stream import ImageStream
from schemas.errors import UsageError
from schemas.run import ModelSpec
from schemas.shard_record import ShardRecord


@pytest.fixture
def frame(checkpoint: ModelSpec) -> PreprocessConfig:
    return PreprocessConfig.for_model(load_model(checkpoint).record, "squash")


@pytest.fixture
def counted(shards: str) -> tuple[ShardRecord, ...]:
    return count_samples(expand_shards((shards,)))


def keys(stream: ImageStream, batches: int, first: int = 0) -> list[list[str]]:
    return [[s.key for s in images.samples] for images in islice(stream.iter_batches(DecoderPool(0), first), batches)]


def test_every_image_comes_once_an_epoch_and_epochs_differ(
    counted: tuple[ShardRecord, ...], frame: PreprocessConfig
) -> None:
    stream = ImageStream(counted, frame, 3, None, seed=0)
    read = keys(stream, 7 * 6)  # 2 + 3 + 2 batches an epoch
    epochs = [read[start : start + 7] for start in range(0, 42, 7)]
    for epoch in epochs:
        assert sorted(key for batch in epoch for key in batch) == [f"s{number:04d}" for number in range(16)]
    assert len({str(epoch) for epoch in epochs}) > 1
    assert keys(stream, 42) == read


@pytest.mark.parametrize("first", [1, 2, 5, 7, 11, 20])
def test_it_goes_on_from_any_place(counted: tuple[ShardRecord, ...], frame: PreprocessConfig, first: int) -> None:
    stream = ImageStream(counted, frame, 3, None, seed=4)
    assert keys(stream, 6, first) == keys(stream, first + 6)[first:]


def test_ranks_share_an_epoch_among_them(counted: tuple[ShardRecord, ...], frame: PreprocessConfig) -> None:
    for epoch in range(5):
        parts = [ImageStream(counted, frame, 3, None, 0, rank, 3).epoch_shards(epoch) for rank in range(3)]
        assert sorted(shard.name for part in parts for shard in part) == sorted(shard.name for shard in counted)


def test_an_image_that_cannot_be_read_is_left_out(tmp_path: Path, frame: PreprocessConfig) -> None:
    members = samples(4)
    members[3] = ("s0001.jpg", b"junk")
    url = write_tar(tmp_path / "one.tar", members)
    (images,) = islice(
        ImageStream(count_samples(expand_shards((str(url),))), frame, 4, None, 0).iter_batches(DecoderPool(0)), 1
    )
    assert [sample.key for sample in images.samples] == ["s0000", "s0002", "s0003"]
    assert images.pixels.shape == (3, 3, *timm.create_model("test_vit").patch_embed.img_size)
    assert images.pixels.dtype == np.uint8
    assert all(picture.any() for picture in images.pixels)


def test_more_workers_than_tars_are_refused(counted: tuple[ShardRecord, ...], frame: PreprocessConfig) -> None:
    with pytest.raises(UsageError, match="3 usable shards are too few for 4 workers"):
        ImageStream(counted, frame, 3, None, 0, 0, 4)
