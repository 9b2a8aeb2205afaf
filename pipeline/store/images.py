"""The pictures that maps are of, once more from their shard, and no others."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from pipeline.image import PreprocessConfig
from pipeline.read import DecoderPool, ImageDecoder, iter_batches
from pipeline.store.atlas_shard import AtlasShard
from schemas.errors import CorruptShardError
from schemas.run import RunRecord


def pictures(
    run: RunRecord,
    part: AtlasShard,
    ordinals: Sequence[int],
    together: int,
    decoders: ImageDecoder | None = None,
    frame: PreprocessConfig | None = None,
) -> Iterator[tuple[list[int], list[Any]]]:
    """What the network saw of some samples of a shard, in the order of the shard, of which no more is read than needed.

    Args:
        run: that made the maps.
        ordinals: of samples that have maps.
        together: how many come at a time; the last ones may be fewer.
        decoders: None decodes beside this thread.
        frame: what they are brought to; None is the network's.

    Yields:
        Ordinals, and the pixels of each, uint8 [3, H, W]: NumPy arrays, or tensors of the device that decodes.

    Raises:
        CorruptShardError: it cannot be read, or its pictures are not those that the atlas has maps of.
    """
    shard, wanted = run.shards[part.commit.shard_index], set(ordinals)
    known = part.samples.select(["key", "image_sha256"]).to_pylist()
    frame, waiting = frame or PreprocessConfig.for_model(run.model, run.spec.geometry), list[tuple[int, Any]]()
    with ExitStack() as stack:
        decoders = decoders or stack.enter_context(DecoderPool(0))
        read = iter_batches(
            shard, run.slot, frame, together, None, decoders, predicate=lambda sample: sample.ordinal in wanted
        )
        while wanted and (batch := next(read, None)):
            for sample in batch.samples:
                if sample.ordinal not in wanted:
                    continue
                found = sample.image.sha256 if sample.image else None
                if {"key": sample.key, "image_sha256": found} != known[sample.ordinal] or sample.image is None:
                    raise CorruptShardError(f"{shard.url}: {sample.key} is not the picture that the atlas has maps of")
                waiting.append((sample.ordinal, sample.image.pixels))
                wanted.remove(sample.ordinal)
            while len(waiting) >= together or (waiting and not wanted):
                group, waiting = waiting[:together], waiting[together:]
                yield [ordinal for ordinal, _ in group], [pixels for _, pixels in group]
    if wanted:
        raise CorruptShardError(
            f"{shard.url}: has not all the samples that the atlas has maps of; is it another shard?"
        )
