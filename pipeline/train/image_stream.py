"""Endless stream of image batches from shards, in an order that depends on the seed alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

import numpy as np
from numpy.typing import NDArray

from pipeline.read import DecodedSample, DecoderPool, PreprocessConfig, iter_batches
from pipeline.read.labels import LabelRule
from schemas.errors import RunFailedError, UsageError
from schemas.run import Grouping
from schemas.samples import SampleStatus
from schemas.shard_record import ShardRecord

_FIXES = {
    SampleStatus.MISSING_LABEL: "{count} samples have no label ({place}); add a .cls member with the class id to each",
    SampleStatus.BAD_LABEL: "{count} samples have a label that is no class id ({place}: {error}); correct them",
    SampleStatus.LABEL_OUT_OF_RANGE: (
        "{count} samples have a label that the network does not have ({place}: {error}); label them with its class "
        "ids, from 0, or take the network that they are labels of"
    ),
}
_OTHER_FAULT = "{count} samples have no usable image ({place}: {error})"


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
        labels: how labels are written.
        faults: by kind, how many samples of the last epoch nothing can be learned from, and the place and the fault of
            the first.
    """

    shards: Sequence[ShardRecord]
    frame: PreprocessConfig
    batch_size: int
    classes: int | None
    seed: int
    rank: int = 0
    world_size: int = 1
    grouping: Grouping = Grouping()
    labels: LabelRule = LabelRule()
    faults: dict[SampleStatus, tuple[int, str, str | None]] = field(default_factory=dict, compare=False)

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
                raise RunFailedError(f"the training shards have no usable sample: {self.describe_faults()}")
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
        self.faults.clear()
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
                    labels=self.labels,
                )
                for index, batch in enumerate(shard_batches, start):
                    rows = [row for row, sample in enumerate(batch.samples) if sample.image is not None]
                    left_out += len(batch.samples) - len(rows)
                    self._count_faults(shard.name, batch.samples)
                    if index >= first and rows:
                        samples = tuple(batch.samples[row] for row in rows)
                        yield TrainingBatch(index, shard.name, samples, batch.pixels[rows], left_out)
                    if index < first or rows:
                        left_out = 0
            start = end

    def describe_faults(self) -> str:
        """Return how many samples of the last epoch have which fault, an example of each, and what to do."""
        return "; ".join(
            _FIXES.get(status, _OTHER_FAULT).format(count=count, place=place, error=error)
            for status, (count, place, error) in self.faults.items()
        )

    def _count_faults(self, shard: str, samples: Sequence[DecodedSample]) -> None:
        for sample in samples:
            if sample.status is not SampleStatus.OK:
                first = 0, f"{shard}: {sample.key}", sample.error
                count, place, error = self.faults.get(sample.status, first)
                self.faults[sample.status] = count + 1, place, error

    def _count_batches(self, shard: ShardRecord) -> int:
        return -(-shard.samples // self.batch_size)
