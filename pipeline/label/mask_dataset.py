"""Torch dataset of images and pseudo-masks: image shards joined with the shards of ``vitatlas label --format png``."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.label.mask_shard import StoredMask, decode_mask, iter_masks
from pipeline.read import PreprocessConfig, UndecodableImageError, decode_image, expand_shards
from pipeline.read.byte_stream import CorruptTarError, open_byte_stream
from pipeline.read.decode import DecodedImage
from pipeline.read.shard_reader import group_by_key
from pipeline.read.shards import short_names
from pipeline.read.tar_members import iter_tar_members
from pipeline.utils.io import url_to_fs
from pipeline.utils.redaction import redact
from schemas.errors import CorruptShardError, UsageError
from schemas.labels import LabelStatus
from schemas.run import Grouping

NO_MASK = "no_mask"
"""Status of samples that are not in the mask shard: their key is unsafe or a duplicate."""

_log = logging.getLogger(__name__)


class MaskSample(NamedTuple):
    """An image with the mask of its object.

    Attributes:
        key: key of the sample.
        image: uint8 [3, H, W], RGB, in its original size, upright by EXIF unless the run of the masks ignores it.
        mask: uint8 [H, W]; 0 background, 1 object, 255 ignored.
        label: class id of the object; −1 where the mask is of a text.
    """

    key: str
    image: Tensor
    mask: Tensor
    label: int


class MaskDataset(IterableDataset[Any]):
    """Samples of image shards that have a mask, joined with it by key, shard by shard.

    Each shard is read by one worker of one rank. If a ``torch.distributed`` group of n ranks exists when the dataset is
    made, each rank takes every n-th shard of an epoch's order, and each of the m workers of its loader every m-th of
    those. Ranks may get unequal numbers of samples. The order depends on seed, epoch and these numbers alone.

    Keys, images and EXIF orientation follow the run that the masks were made of, which their JSON records
    (``schemas.labels.MaskRecord``). Samples without a mask, and those with an empty mask, are left out. At the end of
    an epoch ``skipped`` has their number by status, and each worker logs its own.

    Args:
        images: brace patterns, globs, folders, paths or fsspec URLs of shards; one or several.
        masks: the same for mask shards, ``labels/png``. Mask shards of other shards than ``images`` are ignored.
        transform: applied to each ``MaskSample``; its result is the item.
        shuffle: size of the shuffle buffer, in encoded samples; shards are shuffled too. 0 shuffles neither.
        seed: random seed of the shuffling.

    Raises:
        UsageError: there are no such shards, a shard has no masks, is a shell command, or there are fewer shards than
            ranks. During iteration: a mask shard is of other images, a mask cannot be read, or nothing says whether it
            is of the stored or of the upright image.
        CorruptShardError: a shard is damaged; raised during iteration.
    """

    def __init__(
        self,
        images: str | Path | Sequence[str | Path],
        masks: str | Path | Sequence[str | Path],
        transform: Callable[[MaskSample], Any] | None = None,
        shuffle: int = 0,
        seed: int = 0,
    ) -> None:
        self.transform, self.shuffle, self.seed = transform, shuffle, seed
        self.skipped: Counter[str] = Counter()
        self._pairs = _pair_shards(_expand(images), _expand(masks))
        distributed = dist.is_available() and dist.is_initialized()
        self._rank, self._ranks = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        if len(self._pairs) < self._ranks:
            raise UsageError(
                f"{len(self._pairs)} shards are too few for {self._ranks} ranks; make more, smaller shards"
            )
        # Persistent workers have their own copy of everything but shared memory.
        self._epoch = torch.tensor(0).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch; without it all epochs have the same order."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Any]:
        seed = (93, self.seed, int(self._epoch))
        order = np.random.default_rng(seed).permutation(len(self._pairs)) if self.shuffle else range(len(self._pairs))
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        skipped: Counter[str] = Counter()
        shards = [self._pairs[index] for index in order[self._rank :: self._ranks][worker::workers]]
        samples: Iterator[_LazySample] = chain.from_iterable(_join_shards(*pair, skipped) for pair in shards)
        if self.shuffle:
            samples = _shuffle(samples, self.shuffle, np.random.default_rng((*seed, self._rank, worker)))
        for decode_sample in samples:
            sample = decode_sample()
            yield sample if self.transform is None else self.transform(sample)
        self.skipped = skipped
        if skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
            _log.warning("samples of %d shards without a usable mask were skipped: %s", len(shards), reasons)


_LazySample = Callable[[], MaskSample]
"""Decodes a sample."""


def _expand(patterns: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """Return the URLs of shards; a folder means all shards directly in it."""
    expanded = [str(pattern) for pattern in ([patterns] if isinstance(patterns, str | Path) else patterns)]
    for index, pattern in enumerate(expanded):
        if pattern.startswith("pipe:"):
            raise UsageError(
                f"{redact(pattern)}: is a shell command, which is not run here; name the shards themselves"
            )
        files, path = url_to_fs(pattern)
        if files.isdir(path):
            expanded[index] = f"{pattern.rstrip('/')}/*.tar"
    return expand_shards(expanded)


def _pair_shards(images: Sequence[str], masks: Sequence[str]) -> list[tuple[str, str]]:
    """Return each image shard with its mask shard, which has the short name that a plan gives the image shard."""
    masks_by_name = dict(zip(short_names(masks), masks, strict=True))
    pairs = []
    for name, url in zip(short_names(images), images, strict=True):
        if name not in masks_by_name:
            raise UsageError(f"{url}: there is no {name}.tar among its masks; label it, or leave it out")
        pairs.append((url, masks_by_name[name]))
    if not pairs:
        raise UsageError("no image shards are named")
    return pairs


def _join_shards(images: str, masks: str, skipped: Counter[str]) -> Iterator[_LazySample]:
    """Yield the samples of a shard that have a mask. Both shards have the same order, but masks may lack keys."""
    stored = iter_masks(masks)
    mask = next(stored, None)
    grouping = mask.record.grouping if mask else Grouping()
    try:
        with open_byte_stream(images) as stream:
            for sample in group_by_key(iter_tar_members(stream), load=True, grouping=grouping):
                if mask is None or sample.key != mask.key:
                    skipped[NO_MASK] += 1
                    continue
                image = sample.image()
                if mask.record.status != LabelStatus.OK:
                    skipped[mask.record.status] += 1
                elif image is None or image.data is None or mask.png is None:
                    raise UsageError(
                        f"{masks}: {mask.key} must have a mask, but it or the image in {images} is missing"
                    )
                else:
                    yield partial(_decode_sample, mask, image.data, (images, masks))
                mask = next(stored, None)
    except CorruptTarError as damage:
        if mask is not None:  # else the atlas was made of the samples before the damage
            raise CorruptShardError(f"{images}: cannot be read past {mask.key}: {damage}") from damage
    if mask is not None:
        raise UsageError(
            f"{masks}: has {mask.key}, which {images} does not have in this order; it is of another shard, or its JSON "
            "lacks the key_separator or image_key by which its run has found the images"
        )


def _decode_sample(stored: StoredMask, image: bytes, urls: tuple[str, str]) -> MaskSample:
    assert stored.png is not None
    key, values = stored.key, decode_mask(stored.png, f"{urls[1]}: {stored.key}.mask.png")
    height, width = values.shape
    preprocess = PreprocessConfig(width, height, "nearest", "squash", 1.0, "center", stored.record.exif or "apply")
    try:
        decoded = decode_image(image, preprocess)
        if stored.record.exif is None and decoded.orientation != 1:
            decoded = _decode_by_size(image, preprocess, decoded, f"{urls[1]}: {key}.json")
    except UndecodableImageError as error:
        raise UsageError(f"{urls[0]}: {key} has a mask, but cannot be decoded ({error})") from None
    if (decoded.width, decoded.height) != (width, height):
        sizes = f"{decoded.width}×{decoded.height} pixels, its mask in {urls[1]} {width}×{height}"
        raise UsageError(f"{urls[0]}: {key} is {sizes}; are these the masks of other images?")
    # Not torch.tensor(), whose copy starts a thread on every core.
    label = -1 if stored.record.label is None else stored.record.label
    return MaskSample(key, torch.from_numpy(decoded.pixels.copy()), torch.from_numpy(values), label)


def _decode_by_size(image: bytes, preprocess: PreprocessConfig, upright: DecodedImage, record: str) -> DecodedImage:
    """Return the image upright or as it is stored, whichever has the size of its mask.

    Raises:
        UsageError: both have it.
    """
    as_stored = decode_image(image, replace(preprocess, exif="ignore"))
    if (as_stored.width, as_stored.height) == (upright.width, upright.height):
        raise UsageError(
            f"{record}: does not say whether the mask is of the image as it is stored or turned upright by its EXIF "
            f'orientation {upright.orientation}; write "exif": "ignore" or "apply" into it'
        )
    size = preprocess.width, preprocess.height
    return as_stored if (as_stored.width, as_stored.height) == size else upright


def _shuffle(samples: Iterable[_LazySample], size: int, generator: np.random.Generator) -> Iterator[_LazySample]:
    """Yield each sample at random from a buffer of this size."""
    buffer: list[_LazySample] = []
    for sample in samples:
        if len(buffer) < size:
            buffer.append(sample)
            continue
        index = int(generator.integers(size))
        yield buffer[index]
        buffer[index] = sample
    for index in generator.permutation(len(buffer)):
        yield buffer[index]
