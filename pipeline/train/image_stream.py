"""The images of shards, over and over, in an order that depends on the seed alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np
from numpy.typing import NDArray

from pipeline.read import DecodedSample, DecoderPool, PreprocessConfig, iter_batches
from schemas.errors import RunFailedError, UsageError
from schemas.run import ShardRecord


@dataclass(frozen=True)
class Images:
    """Images of one step.

    Attributes:
        number: place in the stream, from 0.
        shard: that they are of.
        samples: B of them, at least one, every one with a picture.
        pixels: uint8 [B, 3, H, W].
        left_out: samples before and among them, since the last ones, that have no picture or label.
    """

    number: int
    shard: str
    samples: tuple[DecodedSample, ...]
    pixels: NDArray[np.uint8]
    left_out: int = 0


@dataclass(frozen=True)
class Stream:
    """Batches of shards. A shard is read from front to back, as WebDataset shards are shuffled already.

    In each epoch the shards come in another order. Of several ranks each takes every so-manieth shard of that order, and
    ranks that are through early wait for nobody: they go on with the next epoch.

    Attributes:
        shards: as counted.
        frame: where the network sees a picture.
        batch_size: samples read at a time; those without a picture are dropped, so a step may have fewer, and
            a batch without any is passed over.
        classes: a label must be below it; None if labels are not needed.
        seed: of the order.
        rank, ranks: which part of each epoch.
    """

    shards: Sequence[ShardRecord]
    frame: PreprocessConfig
    batch_size: int
    classes: int | None
    seed: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if len(self.usable) < self.ranks:
            raise UsageError(f"there are {len(self.usable)} shards that can be used, too few for {self.ranks} workers")

    @cached_property
    def usable(self) -> list[ShardRecord]:
        """The shards that have samples and no problem."""
        return [shard for shard in self.shards if not shard.fault and shard.samples]

    def order(self, epoch: int) -> list[ShardRecord]:
        """The shards of this rank in an epoch."""
        places = np.random.default_rng([92, self.seed, epoch]).permutation(len(self.usable))
        return [self.usable[place] for place in places[self.rank :: self.ranks]]

    def read(self, pool: DecoderPool, first: int = 0) -> Iterator[Images]:
        """Batches without end, from the given one on; those before it are not read at all where a shard is skipped.

        Args:
            first: number of the batch to begin with.

        Raises:
            RunFailedError: an epoch has not a single picture.
        """
        number = 0
        for epoch in count():
            begun, found = number, False
            for images in self.epoch(pool, epoch, begun, first):
                found = True
                yield images
            number = begun + sum(map(self._batches, self.order(epoch)))
            if number > first and begun >= first and not found:
                raise RunFailedError(f"none of {len(self.order(epoch))} shards has an image that can be learnt from")

    def epoch(
        self,
        pool: DecoderPool,
        epoch: int = 0,
        begun: int = 0,
        first: int = 0,
        only: Callable[[DecodedSample], bool] | None = None,
    ) -> Iterator[Images]:
        """Batches of one epoch.

        Args:
            begun: number of its first batch.
            first: number of the first batch that is wanted.
            only: whether a sample is wanted.
        """
        number, left_out = begun, 0
        for shard in self.order(epoch):
            end = number + self._batches(shard)
            if end > first:
                read = iter_batches(shard, shard.samples, self.frame, self.batch_size, self.classes, pool, only)
                for place, batch in enumerate(read, number):
                    good = [index for index, sample in enumerate(batch.samples) if sample.image is not None]
                    left_out += len(batch.samples) - len(good)
                    if place >= first and good:
                        chosen = tuple(batch.samples[index] for index in good)
                        yield Images(place, shard.name, chosen, batch.pixels[good], left_out)
                    if place < first or good:
                        left_out = 0
            number = end

    def _batches(self, shard: ShardRecord) -> int:
        return -(-shard.samples // self.batch_size)
