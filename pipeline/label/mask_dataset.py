"""Pictures with their pseudo-masks, to train on: image shards beside the mask shards of ``vitatlas label --format png``."""

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
"""What is counted where the mask shard has nothing of a sample: its key is unsafe, or not its own."""

_log = logging.getLogger(__name__)


class MaskSample(NamedTuple):
    """One picture and where its object is.

    Attributes:
        image: uint8 [3, H, W], RGB, upright, as large as it is.
        mask: uint8 [H, W]; 0 background, 1 object, 255 ignored.
        label: class of the object.
    """

    key: str
    image: Tensor
    mask: Tensor
    label: int


class MaskDataset(IterableDataset[Any]):
    """Samples of image shards that have a mask, joined with it by key, shard by shard.

    Each shard is read by one worker of one rank: of a ``torch.distributed`` group that exists when this is made, ranks
    take every so-manieth shard of an epoch's order, and the workers of their loaders every so-manieth of those. Ranks may
    so get unequally many samples. Order depends on seed, epoch and their numbers alone.

    Samples without a mask, and those whose mask is empty though there is an object, are left out; at the end of an
    epoch ``skipped`` has their number by status, and each worker logs its own.

    Args:
        images: brace patterns, globs, folders, paths or fsspec URLs of shards; one or several.
        masks: the same of mask shards, ``labels/png``. Those of other shards than ``images`` are left alone.
        transform: applied to each ``MaskSample``; what it returns is the item.
        shuffle: samples, still encoded, from which each next one is drawn; the shards are shuffled too. 0: neither.
        seed: of that.

    Raises:
        UsageError: no such shards, one without masks, a shell command, or fewer shards than ranks. While it is read: a mask
            shard is of other pictures, or a mask is none.
        CorruptShardError: a shard is damaged, while it is read.
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
        self._pairs = _pairs(_shards(images), _shards(masks))
        grouped = dist.is_available() and dist.is_initialized()
        self._rank, self._ranks = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
        if len(self._pairs) < self._ranks:
            raise UsageError(
                f"{len(self._pairs)} shards are too few for {self._ranks} ranks; make more, smaller shards"
            )
        # Workers that live longer than an epoch have their own copy of all but shared memory.
        self._epoch = torch.tensor(0).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; without it every one has the same order."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Any]:
        seed = (93, self.seed, int(self._epoch))
        order = np.random.default_rng(seed).permutation(len(self._pairs)) if self.shuffle else range(len(self._pairs))
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        skipped: Counter[str] = Counter()
        shards = [self._pairs[place] for place in order[self._rank :: self._ranks][worker::workers]]
        found: Iterator[_Decoding] = chain.from_iterable(_joined(*pair, skipped) for pair in shards)
        if self.shuffle:
            found = _shuffled(found, self.shuffle, np.random.default_rng((*seed, self._rank, worker)))
        for each in found:
            sample = each()
            yield sample if self.transform is None else self.transform(sample)
        self.skipped = skipped
        if skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
            _log.warning("left out of %d shards, having no mask to learn from: %s", len(shards), reasons)


_Decoding = Callable[[], MaskSample]


def _shards(patterns: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """URLs of shards; a folder is all of them that are right in it."""
    several = [str(each) for each in ([patterns] if isinstance(patterns, str | Path) else patterns)]
    for index, pattern in enumerate(several):
        if pattern.startswith("pipe:"):
            raise UsageError(f"{redact(pattern)}: is a shell command, and none is run here; name the shards themselves")
        files, path = url_to_fs(pattern)
        if files.isdir(path):
            several[index] = f"{pattern.rstrip('/')}/*.tar"
    return expand_shards(several)


def _pairs(images: Sequence[str], masks: Sequence[str]) -> list[tuple[str, str]]:
    """Each image shard with its mask shard, which has the short name that a plan gives the image shard."""
    known = dict(zip(short_names(masks), masks, strict=True))
    pairs = []
    for name, url in zip(short_names(images), images, strict=True):
        if name not in known:
            raise UsageError(f"{url}: there is no {name}.tar among its masks; label it, or leave it out")
        pairs.append((url, known[name]))
    if not pairs:
        raise UsageError("no image shards are named")
    return pairs


def _joined(images: str, masks: str, skipped: Counter[str]) -> Iterator[_Decoding]:
    """Samples of one shard that have a mask. Both shards have the same order, but the masks may lack some keys."""
    labels = _labels(masks)
    key, files = next(labels, (None, {}))
    try:
        with open_byte_stream(images) as stream:
            for sample in group_by_key(iter_tar_members(stream), load=True):
                if sample.key != key:
                    skipped[NO_MASK] += 1
                    continue
                (status, label), image = _about(files, f"{masks}: {key}.json"), sample.image()
                if status != LabelStatus.OK:
                    skipped[status] += 1
                elif image is None or image.data is None or "mask.png" not in files:
                    raise UsageError(f"{masks}: {key} is said to have a mask; it or the picture in {images} is missing")
                else:
                    yield partial(_decoded, sample.key, image.data, files["mask.png"], label, (images, masks))
                key, files = next(labels, (None, {}))
    except CorruptTarError as damage:
        if key is not None:  # else an atlas was made of what is in front of it
            raise CorruptShardError(f"{images}: cannot be read past {key}: {damage}") from damage
    if key is not None:
        raise UsageError(f"{masks}: has {key}, which {images} has not, or not in this order; it is of another shard")


def _labels(url: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key, and contents by extension, of each sample of a mask shard."""
    try:
        with open_byte_stream(url) as stream:
            for key, members in groupby(
                iter_tar_members(stream), lambda entry: split_name(entry.name)[0] or entry.name
            ):
                yield key, {split_name(entry.name)[1]: entry.read() for entry in members}
    except CorruptTarError as damage:
        raise CorruptShardError(f"{url}: {damage}; label its shard again") from damage


def _about(files: dict[str, bytes], name: str) -> tuple[str, int]:
    """Status and class of a label; −1 where that is none, which it never is of a mask."""
    try:
        about = json.loads(files["json"])
        return str(about["status"]), int(about["label"] if about["status"] == LabelStatus.OK else -1)
    except (KeyError, TypeError, ValueError) as error:
        what = f"{name} does not say status and label ({error!r})"
        raise UsageError(f"{what}; are these shards of vitatlas label --format png?") from None


def _decoded(key: str, image: bytes, mask: bytes, label: int, urls: tuple[str, str]) -> MaskSample:
    values = _mask(mask, f"{urls[1]}: {key}.mask.png")
    height, width = values.shape
    try:
        picture = decode_image(image, PreprocessConfig(width, height, "nearest", "squash", 1.0, "center"))
    except UndecodableImageError as error:
        raise UsageError(f"{urls[0]}: {key} has a mask, but cannot be decoded ({error})") from None
    if (picture.width, picture.height) != (width, height):
        sizes = f"{picture.width}×{picture.height} pixels, its mask in {urls[1]} {width}×{height}"
        raise UsageError(f"{urls[0]}: {key} is {sizes}; are these the masks of other pictures?")
    # Not torch.tensor(), whose copy wakes a thread on every core.
    return MaskSample(key, torch.from_numpy(picture.pixels.copy()), torch.from_numpy(values), label)


def _mask(data: bytes, name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            mode, values = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{name}: cannot be read as a PNG ({error})") from None
    if mode not in ("P", "L") or ((values > OBJECT) & (values != IGNORE)).any():
        raise UsageError(f"{name}: must be an indexed PNG of 0, 1 and {IGNORE}")
    return values


def _shuffled(items: Iterable[_Decoding], size: int, source: np.random.Generator) -> Iterator[_Decoding]:
    """Each drawn at random from a buffer of so many."""
    buffer: list[_Decoding] = []
    for item in items:
        if len(buffer) < size:
            buffer.append(item)
            continue
        place = int(source.integers(size))
        yield buffer[place]
        buffer[place] = item
    for place in source.permutation(len(buffer)):
        yield buffer[place]
