"""Endless stream of image batches from shards, in an order that depends on the seed alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np
from numpy.typing import NDArray

from pipeline.read import DecodedSample, DecoderPool, PreprocessConfig, iter_batches
from schemas.errors import RunFailedError, UsageError
from schemas.run import Grouping, ShardRecord


@dataclass(frozen=True)
class TrainingBatch:
    """Images of one training step.

    Attributes:
        index: place in the stream, from 0.
        shard: name of their shard.
        samples: B samples, at least one; each has an image.
        pixels: uint8 [B, 3, H, W].
        left_out: number of samples without image or label since the last batch.
    """

    index: int
    shard: str
    samples: tuple[DecodedSample, ...]
    pixels: NDArray[np.uint8]
    left_out: int = 0


@dataclass(frozen=True)
class ImageStream:
    """Batches of shards. A shard is read sequentially, since WebDataset shards are shuffled already.

    Each epoch has another order of shards. Of several ranks, rank r takes every ``world_size``-th shard of that order
    from the r-th on; a rank that finishes its epoch early starts the next one without waiting.

    Attributes:
        shards: shards with their sample counts.
        frame: preprocessing of images.
        batch_size: samples read at a time; those without an image are dropped, so a batch may have fewer, and an
            empty one is skipped.
        classes: labels must be below it; None if labels are not needed.
        seed: seed of the order.
        rank: number of this process.
        world_size: number of processes.
        grouping: rule of keys and images.
    """

    shards: Sequence[ShardRecord]
    frame: PreprocessConfig
    batch_size: int
    classes: int | None
    seed: int
    rank: int = 0
    world_size: int = 1
    grouping: Grouping = Grouping()

    def __post_init__(self) -> None:
        if len(self.usable_shards) < self.world_size:
            raise UsageError(
                f"{len(self.usable_shards)} usable shards are too few for {self.world_size} workers; lower --workers"
            )

    @cached_property
    def usable_shards(self) -> list[ShardRecord]:
        """Shards that have samples and no fault."""
        return [shard for shard in self.shards if not shard.fault and shard.samples]

    def epoch_shards(self, epoch: int) -> list[ShardRecord]:
        """Return the shards of this rank in an epoch, in order."""
        order = np.random.default_rng([92, self.seed, epoch]).permutation(len(self.usable_shards))
        return [self.usable_shards[index] for index in order[self.rank :: self.world_size]]

    def iter_batches(self, decoders: DecoderPool, first: int = 0) -> Iterator[TrainingBatch]:
        """Yield batches without end. Shards before the first batch are not read.

        Args:
            decoders: image decoders.
            first: index of the first batch.

        Raises:
            RunFailedError: an epoch has no image at all.
        """
        start = 0
        for epoch in count():
            has_images = False
            for batch in self.iter_epoch(decoders, epoch, start, first):
                has_images = True
                yield batch
            end = start + sum(map(self._count_batches, self.epoch_shards(epoch)))
            if end > first and start >= first and not has_images:
                raise RunFailedError(
                    f"none of {len(self.epoch_shards(epoch))} shards has a usable image; check images and labels"
                )
            start = end

    def iter_epoch(
        self,
        decoders: DecoderPool,
        epoch: int = 0,
        start: int = 0,
        first: int = 0,
        predicate: Callable[[DecodedSample], bool] | None = None,
    ) -> Iterator[TrainingBatch]:
        """Yield the batches of one epoch.

        Args:
            decoders: image decoders.
            epoch: number of the epoch.
            start: index of the epoch's first batch.
            first: index of the first batch that is wanted.
            predicate: whether a sample is wanted; None means all.
        """
        left_out = 0
        for shard in self.epoch_shards(epoch):
            end = start + self._count_batches(shard)
            if end > first:
                shard_batches = iter_batches(
                    shard,
                    shard.samples,
                    self.frame,
                    self.batch_size,
                    self.classes,
                    decoders,
                    predicate,
                    self.grouping,
                )
                for index, batch in enumerate(shard_batches, start):
                    rows = [row for row, sample in enumerate(batch.samples) if sample.image is not None]
                    left_out += len(batch.samples) - len(rows)
                    if index >= first and rows:
                        samples = tuple(batch.samples[row] for row in rows)
                        yield TrainingBatch(index, shard.name, samples, batch.pixels[rows], left_out)
                    if index < first or rows:
                        left_out = 0
            start = end

    def _count_batches(self, shard: ShardRecord) -> int:
        return -(-shard.samples // self.batch_size)
