"""Read the images of samples in an atlas from their shard."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.image import PreprocessConfig
from pipeline.read import DecoderPool, ImageDecoder, UndecodableImageError, decode_image, iter_batches
from pipeline.read.sample_keys import escape_bytes
from pipeline.read.shard_reader import read_samples
from pipeline.store.shard_maps import ShardMaps
from schemas.errors import CorruptShardError


def read_images(
    shard: ShardMaps,
    ordinals: Sequence[int],
    batch_size: int,
    decoder: ImageDecoder | None = None,
    preprocess: PreprocessConfig | None = None,
) -> Iterator[tuple[list[int], list[Any]]]:
    """Yield the preprocessed images of some samples of a shard, in the order of the shard. Reads no more than needed.

    Args:
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
    run, record, remaining = shard.run, shard.planned.of_any_source(), set(ordinals)
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


def read_original_images(shard: ShardMaps, ordinals: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield some images of a shard in their original size, in the order of the shard. Reads no more than needed.

    Args:
        shard: the shard in the atlas.
        ordinals: samples that have maps.

    Yields:
        Ordinal, and RGB pixels uint8 [3, height, width], turned as the run has turned the image.

    Raises:
        CorruptShardError: the shard cannot be read, or its images are not those of the atlas.
    """
    run, record, remaining = shard.run, shard.planned.of_any_source(), set(ordinals)
    samples = shard.samples.select(["key", "image_sha256", "width", "height"]).to_pylist()
    raw_samples = enumerate(read_samples(record, run.slot, run.spec.grouping)) if remaining else iter(())
    for ordinal, raw in raw_samples:
        if ordinal not in remaining:
            continue
        sample, image = samples[ordinal], raw.image()
        config = PreprocessConfig(sample["width"], sample["height"], "nearest", "squash", 1.0, "center", run.spec.exif)
        try:
            decoded = decode_image(image.data or b"" if image else b"", config)
        except UndecodableImageError as error:
            raise CorruptShardError(f"{record.url}: the image of {sample['key']} cannot be decoded ({error})") from None
        if (escape_bytes(raw.key), decoded.sha256) != (sample["key"], sample["image_sha256"]):
            raise CorruptShardError(f"{record.url}: the image of {sample['key']} is not the one in the atlas")
        remaining.remove(ordinal)
        yield ordinal, decoded.pixels
        if not remaining:
            return
    if remaining:
        raise CorruptShardError(f"{record.url}: lacks samples that the atlas has maps of; is it another shard?")
