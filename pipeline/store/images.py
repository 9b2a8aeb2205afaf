"""Read the images of samples in an atlas from their shard."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from pipeline.image import PreprocessConfig
from pipeline.read import DecoderPool, ImageDecoder, iter_batches
from pipeline.store.atlas_shard import AtlasShard
from schemas.errors import CorruptShardError
from schemas.run import RunRecord


def read_images(
    run: RunRecord,
    shard: AtlasShard,
    ordinals: Sequence[int],
    batch_size: int,
    decoder: ImageDecoder | None = None,
    preprocess: PreprocessConfig | None = None,
) -> Iterator[tuple[list[int], list[Any]]]:
    """Yield the preprocessed images of some samples of a shard, in the order of the shard. Reads no more than needed.

    Args:
        run: record of the run.
        shard: the shard in the atlas.
        ordinals: samples that have maps.
        batch_size: images per batch; the last batch may be smaller.
        decoder: decoder of images; None decodes in this thread.
        preprocess: resize and crop; None: those of the network.

    Yields:
        Ordinals, and the pixels of each image, uint8 [3, H, W]: NumPy arrays, or tensors on the device of the decoder.

    Raises:
        CorruptShardError: the shard cannot be read, or its images are not those of the atlas.
    """
    # Whatever file it is, each image is compared.
    record, remaining = run.shards[shard.commit.shard_index].of_any_source(), set(ordinals)
    samples = shard.samples.select(["key", "image_sha256"]).to_pylist()
    preprocess = preprocess or PreprocessConfig.for_model(run.model, run.spec.geometry)
    preprocess = replace(preprocess, exif=run.spec.exif)
    pending: list[tuple[int, Any]] = []
    with ExitStack() as stack:
        decoder = decoder or stack.enter_context(DecoderPool(0))
        batches = iter_batches(
            record,
            run.slot,
            preprocess,
            batch_size,
            None,
            decoder,
            predicate=lambda sample: sample.ordinal in remaining,
            grouping=run.spec.grouping,
        )
        while remaining and (batch := next(batches, None)):
            for sample in batch.samples:
                if sample.ordinal not in remaining:
                    continue
                image_sha256 = sample.image.sha256 if sample.image else None
                identity = {"key": sample.key, "image_sha256": image_sha256}
                if identity != samples[sample.ordinal] or sample.image is None:
                    raise CorruptShardError(f"{record.url}: the image of {sample.key} is not the one in the atlas")
                pending.append((sample.ordinal, sample.image.pixels))
                remaining.remove(sample.ordinal)
            while len(pending) >= batch_size or (pending and not remaining):
                ready, pending = pending[:batch_size], pending[batch_size:]
                yield [ordinal for ordinal, _ in ready], [pixels for _, pixels in ready]
    if remaining:
        raise CorruptShardError(f"{record.url}: lacks samples that the atlas has maps of; is it another shard?")
