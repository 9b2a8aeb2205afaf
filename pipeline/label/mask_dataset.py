"""Torch dataset of images and pseudo-masks: image shards joined with the shards of ``vitatlas label --format png``."""

import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.label.formats.png_encoding import IGNORE, OBJECT
from pipeline.read import PreprocessConfig, UndecodableImageError, decode_image, expand_shards
from pipeline.read.byte_stream import CorruptTarError, open_byte_stream
from pipeline.read.sample_keys import split_name
from pipeline.read.shard_reader import group_by_key
from pipeline.read.shards import short_names
from pipeline.read.tar_members import iter_tar_members
from pipeline.utils.io import url_to_fs
from pipeline.utils.redaction import redact
from schemas.errors import CorruptShardError, UsageError
from schemas.labels import LabelStatus

NO_MASK = "no_mask"
"""Status of samples that are not in the mask shard: their key is unsafe or a duplicate."""

_log = logging.getLogger(__name__)


class MaskSample(NamedTuple):
    """An image with the mask of its object.

    Attributes:
        key: key of the sample.
        image: uint8 [3, H, W], RGB, upright, in its original size.
        mask: uint8 [H, W]; 0 background, 1 object, 255 ignored.
        label: class id of the object.
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

    Samples without a mask, and those with an empty mask, are left out. At the end of an epoch ``skipped`` has their
    number by status, and each worker logs its own.

    Args:
        images: brace patterns, globs, folders, paths or fsspec URLs of shards; one or several.
        masks: the same for mask shards, ``labels/png``. Mask shards of other shards than ``images`` are ignored.
        transform: applied to each ``MaskSample``; its result is the item.
        shuffle: size of the shuffle buffer, in encoded samples; shards are shuffled too. 0 shuffles neither.
        seed: random seed of the shuffling.

    Raises:
        UsageError: there are no such shards, a shard has no masks, is a shell command, or there are fewer shards than
            ranks. During iteration: a mask shard is of other images, or a mask cannot be read.
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
    labels = _iter_labels(masks)
    key, files = next(labels, (None, {}))
    try:
        with open_byte_stream(images) as stream:
            for sample in group_by_key(iter_tar_members(stream), load=True):
                if sample.key != key:
                    skipped[NO_MASK] += 1
                    continue
                (status, label), image = _parse_label(files, f"{masks}: {key}.json"), sample.image()
                if status != LabelStatus.OK:
                    skipped[status] += 1
                elif image is None or image.data is None or "mask.png" not in files:
                    raise UsageError(f"{masks}: {key} must have a mask, but it or the image in {images} is missing")
                else:
                    yield partial(_decode_sample, sample.key, image.data, files["mask.png"], label, (images, masks))
                key, files = next(labels, (None, {}))
    except CorruptTarError as damage:
        if key is not None:  # else the atlas was made of the samples before the damage
            raise CorruptShardError(f"{images}: cannot be read past {key}: {damage}") from damage
    if key is not None:
        raise UsageError(f"{masks}: has {key}, which {images} does not have in this order; it is of another shard")


def _iter_labels(url: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key, and the contents by extension, of each sample of a mask shard."""
    try:
        with open_byte_stream(url) as stream:
            for key, members in groupby(
                iter_tar_members(stream), lambda member: split_name(member.name)[0] or member.name
            ):
                yield key, {split_name(member.name)[1]: member.read() for member in members}
    except CorruptTarError as damage:
        raise CorruptShardError(f"{url}: {damage}; label its shard again") from damage


def _parse_label(files: dict[str, bytes], name: str) -> tuple[str, int]:
    """Return the status and class id of a label; −1 for samples without a mask."""
    try:
        label = json.loads(files["json"])
        return str(label["status"]), int(label["label"] if label["status"] == LabelStatus.OK else -1)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        fault = f"{name} has no status and label ({error!r})"
        raise UsageError(f"{fault}; are these shards of vitatlas label --format png?") from None


def _decode_sample(key: str, image: bytes, mask: bytes, label: int, urls: tuple[str, str]) -> MaskSample:
    values = _decode_mask(mask, f"{urls[1]}: {key}.mask.png")
    height, width = values.shape
    try:
        decoded = decode_image(image, PreprocessConfig(width, height, "nearest", "squash", 1.0, "center"))
    except UndecodableImageError as error:
        raise UsageError(f"{urls[0]}: {key} has a mask, but cannot be decoded ({error})") from None
    if (decoded.width, decoded.height) != (width, height):
        sizes = f"{decoded.width}×{decoded.height} pixels, its mask in {urls[1]} {width}×{height}"
        raise UsageError(f"{urls[0]}: {key} is {sizes}; are these the masks of other images?")
    # Not torch.tensor(), whose copy starts a thread on every core.
    return MaskSample(key, torch.from_numpy(decoded.pixels.copy()), torch.from_numpy(values), label)


def _decode_mask(data: bytes, name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            mode, values = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{name}: cannot be read as a PNG ({error})") from None
    if mode not in ("P", "L") or ((values > OBJECT) & (values != IGNORE)).any():
        raise UsageError(f"{name}: must be an indexed PNG of 0, 1 and {IGNORE}")
    return values


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
