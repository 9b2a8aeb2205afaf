"""The images of tars, over and over, in an order that depends on the seed alone."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.read import Frame, Sample, batches
from schemas.errors import UsageError
from schemas.run import ShardRecord


@dataclass(frozen=True)
class Images:
    """Images of one step.

    Attributes:
        number: place in the stream, from 0.
        samples: B of them, at least one, every one with a picture.
        pixels: uint8 [B, 3, H, W].
    """

    number: int
    samples: tuple[Sample, ...]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Stream:
    """Batches of tars. A tar is read from front to back, as WebDataset tars are shuffled already.

    In each epoch the tars come in another order. Of several ranks each takes every so-manieth tar of that order, and
    ranks that are through early wait for nobody: they go on with the next epoch.

    Attributes:
        shards: as counted; those with a problem are left out.
        frame: where the network sees a picture.
        batch_size: samples read at a time; those without a picture are dropped, so a step may have fewer, and
            a batch without any is passed over.
        classes: a label must be below it; None if labels are not needed.
        seed: of the order.
        rank, ranks: which part of each epoch.
    """

    shards: Sequence[ShardRecord]
    frame: Frame
    batch_size: int
    classes: int | None
    seed: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        usable = [shard for shard in self.shards if not shard.problem and shard.samples]
        if len(usable) < self.ranks:
            raise UsageError(f"there are {len(usable)} tars that can be used, too few for {self.ranks} workers")

    def order(self, epoch: int) -> list[ShardRecord]:
        """The tars of this rank in an epoch."""
        usable = [shard for shard in self.shards if not shard.problem and shard.samples]
        places = np.random.default_rng([92, self.seed, epoch]).permutation(len(usable))
        return [usable[place] for place in places[self.rank :: self.ranks]]

    def read(self, pool: Executor, first: int = 0) -> Iterator[Images]:
        """Batches without end, from the given one on; those before it are not read at all where a tar is skipped.

        Args:
            first: number of the batch to begin with.
        """
        epoch = number = 0
        while True:
            for shard in self.order(epoch):
                count = -(-shard.samples // self.batch_size)
                if number + count <= first:
                    number += count
                    continue
                for batch in batches(shard, shard.samples, self.frame, self.batch_size, self.classes, pool):
                    good = [place for place, sample in enumerate(batch.samples) if sample.picture is not None]
                    if number >= first and good:
                        yield Images(number, tuple(batch.samples[place] for place in good), batch.pixels[good])
                    number += 1
            epoch += 1
