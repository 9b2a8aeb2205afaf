"""A shard as batches: read ahead and decoded while the last batch is being explained."""

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

from pipeline.image import Frame
from pipeline.read.decode import Picture
from pipeline.read.decoder_pool import Decoding
from pipeline.read.samples import IMAGES, LABEL, MAX_BYTES, Group, read
from schemas.run import ShardRecord
from schemas.samples import SampleStatus

_DECIMAL = re.compile(rb"\s*[+-]?[0-9]{1,9}\s*")
_AHEAD = 2
"""Batches that are decoded in advance."""


@dataclass(frozen=True)
class Sample:
    """One sample of a shard, good or not.

    Attributes:
        ordinal: place in the shard, from 0.
        member: name of its image in the shard.
        label: the class index, or None where there is none that can be used.
        picture: None unless ``status`` is ``ok``.
        error: one sentence where ``status`` is not ``ok``, or where a label that is not needed is wrong.
    """

    ordinal: int
    key: str
    member: str | None
    label: int | None
    picture: Picture | None
    status: SampleStatus
    error: str | None


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of a shard.

    Attributes:
        samples: B of them.
        pixels: uint8 [B, 3, H, W], a NumPy array, or a tensor on the device of the decoders; black where a sample
            has no picture, so that its neighbours are computed in a batch of the same shape whether or not it is
            there. (Of the second target a batch has as many as need one, so its float32 bounds may still differ in
            their last bit.)
    """

    samples: tuple[Sample, ...]
    pixels: Any


def batches(
    shard: ShardRecord,
    room: int,
    frame: Frame,
    batch_size: int,
    classes: int | None,
    decoders: Decoding,
    only: Callable[[Sample], bool] | None = None,
) -> Iterator[Batch]:
    """Batches of a shard, in its order.

    Args:
        room: rows that the shard owns.
        classes: a label must be below it; None if labels are not needed, so that a sample without one is
            as good as any.
        only: whether a sample is wanted; of others no picture is decoded.

    Raises:
        CorruptShardError: see ``read``.
    """
    groups = read(shard, room)
    ordinals = count()
    first: dict[str, int] = {}
    ahead: deque[list[tuple[Sample, Any]]] = deque()
    while chunk := list(islice(groups, batch_size)):
        pending: list[tuple[Sample, Any]] = []
        for group in chunk:
            sample = _check(next(ordinals), group, classes, first)
            image = group.image()
            data = image.data if image and sample.status is SampleStatus.OK and (only is None or only(sample)) else None
            pending.append((sample, None if data is None else decoders.submit(data, frame)))
        ahead.append(pending)
        if len(ahead) > _AHEAD:
            yield _collect(ahead.popleft(), frame, decoders)
    while ahead:
        yield _collect(ahead.popleft(), frame, decoders)


def _check(ordinal: int, group: Group, classes: int | None, first: dict[str, int]) -> Sample:
    """All that can be said of a sample before its image is decoded."""
    label, status, error = _label(group, classes)
    key, image = _escaped(group.key), group.image()
    if image is None:
        found = _escaped(", ".join(sorted(group.members)))[:200]
        status, error = SampleStatus.MISSING_IMAGE, f"no member ends in {', '.join(IMAGES)}; there are: {found}"
    elif image.data is None:
        status, error = SampleStatus.UNDECODABLE, f"{image.size:,} bytes are more than {MAX_BYTES:,}"
    if key != group.key:
        status, error = SampleStatus.UNSAFE_KEY, "the key is not UTF-8; other bytes are written as escapes here"
    elif climbs(key):
        status, error = SampleStatus.UNSAFE_KEY, "the key would leave the folder that it is unpacked in"
    if key in first:
        status, error = SampleStatus.DUPLICATE_KEY, f"sample {first[key]} of this shard has the same key"
    first.setdefault(key, ordinal)
    return Sample(ordinal, key, _escaped(image.name) if image else None, label, None, status, error)


def _escaped(name: str) -> str:
    """A name of a shard, in which Python keeps bytes that are not UTF-8 as lone surrogates."""
    return name.encode("utf-8", "backslashreplace").decode()


def _label(group: Group, classes: int | None) -> tuple[int | None, SampleStatus, str | None]:
    """The label, and what is wrong with it. Where none is needed, a wrong one is only remarked on."""
    member = group.members.get(LABEL)
    label, status, error = None, SampleStatus.OK, None
    if member is None:
        if classes is not None:
            status, error = SampleStatus.MISSING_LABEL, f"no .{LABEL} member"
    elif member.data is None or not _DECIMAL.fullmatch(member.data):
        what = f"of {member.size:,} bytes" if member.data is None else repr(member.data[:40])
        status, error = SampleStatus.BAD_LABEL, f"the .{LABEL} member is {what}, not a number of up to 9 digits"
    else:
        label = int(member.data)
        if classes is not None and not 0 <= label < classes:
            status, error = SampleStatus.LABEL_OUT_OF_RANGE, f"label {label} is outside of 0 … {classes - 1}"
    return label, SampleStatus.OK if classes is None else status, error


def _collect(pending: list[tuple[Sample, Any]], frame: Frame, decoders: Decoding) -> Batch:
    pixels, results = decoders.gather([begun for _, begun in pending], frame)
    samples = []
    for (sample, _), result in zip(pending, results, strict=True):
        if isinstance(result, Picture):
            sample = replace(sample, picture=result)
        elif isinstance(result, str):
            sample = replace(sample, status=SampleStatus.UNDECODABLE, error=result)
        samples.append(sample)
    return Batch(tuple(samples), pixels)


def climbs(key: str) -> bool:
    """Whether a key would lead out of the folder that it is unpacked in."""
    return key.startswith("/") or "\\" in key or "\0" in key or ".." in key.split("/")
