"""Batches of decoded images from one shard, read and decoded ahead of their use."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

from pipeline.image import PreprocessConfig
from pipeline.read.decode import DecodedImage
from pipeline.read.decoder_pool import ImageDecoder
from pipeline.read.labels import LabelRule, join_names
from pipeline.read.sample_keys import escape_bytes, is_unsafe_key
from pipeline.read.shard_reader import MAX_IMAGE_BYTES, RawSample, read_samples
from pipeline.read.texts import TextRule
from schemas.run import Grouping
from schemas.samples import SampleStatus
from schemas.shard_record import ShardRecord, SourceRecord

_PREFETCHED_BATCHES = 2


@dataclass(frozen=True)
class DecodedSample:
    """One sample of a shard, good or bad.

    Attributes:
        ordinal: position in the shard, from 0.
        key: of the sample; bytes that are not UTF-8 are escaped.
        member: name of its image in the shard.
        label: class id, or None if there is no usable one, or several.
        labels: all class ids, if several are read.
        texts: one for each target of the ``TextRule``; none without a rule, or if one is missing or bad.
        image: None unless ``status`` is ``ok``.
        status: ``ok``, or the kind of fault.
        error: one sentence if ``status`` is not ``ok``, or if a label that is not needed is wrong.
    """

    ordinal: int
    key: str
    member: str | None
    label: int | None
    image: DecodedImage | None
    status: SampleStatus
    error: str | None
    texts: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class ImageBatch:
    """Consecutive samples of a shard.

    Attributes:
        samples: B of them.
        pixels: uint8 [B, 3, H, W], a NumPy array, or a tensor on the device of the decoder; black where a sample has
            no image, so that a batch has the same shape, and its other maps the same bytes, with or without it. (For
            the second target kind a batch has as many images as need one, so its float32 bounds may still differ in
            their last bit.)
    """

    samples: tuple[DecodedSample, ...]
    pixels: Any


def iter_batches(
    shard: ShardRecord,
    max_samples: int,
    config: PreprocessConfig,
    batch_size: int,
    classes: int | None,
    decoder: ImageDecoder,
    predicate: Callable[[DecodedSample], bool] | None = None,
    grouping: Grouping = Grouping(),
    on_source: Callable[[SourceRecord], None] = lambda source: None,
    texts: TextRule | None = None,
    labels: LabelRule = LabelRule(),
) -> Iterator[ImageBatch]:
    """Iterate over the batches of a shard, in its order.

    Args:
        shard: as planned.
        max_samples: rows that the shard owns in the atlas.
        config: of the resize and crop.
        batch_size: samples of a batch; the last may have fewer.
        classes: a label must be below it; None if labels are not needed, so that a sample may lack one.
        decoder: decodes while the caller works on earlier batches.
        predicate: selects the samples whose images are decoded; None selects all.
        grouping: rule of keys and images.
        on_source: called at the end with the file that was read.
        texts: of texts that a sample must have; None if they are not needed.
        labels: how labels are written, and how many of a sample are used.

    Raises:
        CorruptShardError, OSError: see ``read_samples``.
    """
    extensions = labels.extensions | (texts.extensions if texts else frozenset())
    raw_samples = read_samples(shard, max_samples, grouping, on_source, extensions)
    ordinals = count()
    prefetched: deque[list[tuple[DecodedSample, Any]]] = deque()
    while chunk := list(islice(raw_samples, batch_size)):
        pending: list[tuple[DecodedSample, Any]] = []
        for raw in chunk:
            sample = _check_sample(next(ordinals), raw, classes, grouping, texts, labels)
            image = raw.image()
            wanted = sample.status is SampleStatus.OK and (predicate is None or predicate(sample))
            data = image.data if image and wanted else None
            pending.append((sample, None if data is None else decoder.submit(data, config)))
        prefetched.append(pending)
        if len(prefetched) > _PREFETCHED_BATCHES:
            yield _collect(prefetched.popleft(), config, decoder)
    while prefetched:
        yield _collect(prefetched.popleft(), config, decoder)


def _check_sample(
    ordinal: int,
    raw: RawSample,
    classes: int | None,
    grouping: Grouping,
    texts: TextRule | None,
    rule: LabelRule,
) -> DecodedSample:
    """Find every fault of a sample that shows before its image is decoded."""
    label, labels, status, error = rule.read(raw, classes)
    found, text_status, text_error = texts.read(raw) if texts else ((), SampleStatus.OK, None)
    if status is SampleStatus.OK and text_status is not SampleStatus.OK:
        status, error = text_status, text_error
    key, image = escape_bytes(raw.key), raw.image()
    if image is None:
        status, error = SampleStatus.MISSING_IMAGE, _describe_missing_image(raw, grouping)
    elif image.fault is not None:
        status, error = SampleStatus.MISSING_IMAGE, escape_bytes(f"{image.name} {image.fault}")
    elif image.data is None:
        status, error = SampleStatus.UNDECODABLE, f"{image.size:,} bytes are more than {MAX_IMAGE_BYTES:,}"
    if key != raw.key:
        status, error = SampleStatus.UNSAFE_KEY, "the key is not UTF-8; other bytes are written as escapes here"
    elif is_unsafe_key(key):
        status, error = SampleStatus.UNSAFE_KEY, "the key would leave the folder that it is unpacked in"
    if raw.duplicate_of is not None:
        status, error = SampleStatus.DUPLICATE_KEY, f"sample {raw.duplicate_of} of this shard has the same key"
    return DecodedSample(
        ordinal, key, escape_bytes(image.name) if image else None, label, None, status, error, found, labels
    )


def _describe_missing_image(raw: RawSample, grouping: Grouping) -> str:
    names = join_names(raw)
    if grouping.image_key:
        return f"no member has the extension {' or '.join(grouping.image_key)} of --image-key; there are: {names}"
    dotted = next((extension for extension, member in raw.members.items() if member.is_image), None)
    if dotted is None:
        return f"no member is an image; there are: {names}"
    fix = f"plan with --key-separator last-dot, or with --image-key {escape_bytes(dotted)[:50]}"
    return f"no image is named by the key and one extension; there are: {names}; {fix}"


def _collect(pending: list[tuple[DecodedSample, Any]], config: PreprocessConfig, decoder: ImageDecoder) -> ImageBatch:
    pixels, results = decoder.gather([future for _, future in pending], config)
    samples = []
    for (sample, _), result in zip(pending, results, strict=True):
        if isinstance(result, DecodedImage):
            sample = replace(sample, image=result)
        elif isinstance(result, str):
            sample = replace(sample, status=SampleStatus.UNDECODABLE, error=result)
        samples.append(sample)
    return ImageBatch(tuple(samples), pixels)
