"""Shards of masks as ``vitatlas label --format png`` writes them: ``<key>.mask.png`` and ``<key>.json``."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.label.formats.png_encoding import IGNORE, OBJECT
from pipeline.read.byte_stream import CorruptTarError, open_byte_stream
from pipeline.read.sample_keys import split_name
from pipeline.read.tar_members import iter_tar_members
from schemas.errors import CorruptShardError, UsageError
from schemas.labels import LabelStatus, MaskRecord

_MASK, _RECORD = "mask.png", "json"


@dataclass(frozen=True)
class StoredMask:
    """A sample of a mask shard.

    Attributes:
        key: of the sample.
        record: its status and class, and how the run found its image.
        png: its mask, encoded; None without a mask.
    """

    key: str
    record: MaskRecord
    png: bytes | None


def iter_masks(url: str) -> Iterator[StoredMask]:
    """Yield the samples of a mask shard, in its order.

    Args:
        url: path or fsspec URL.

    Raises:
        CorruptShardError: the shard is damaged.
        UsageError: a sample has no record, or not one of a label.
    """
    try:
        with open_byte_stream(url) as stream:
            for key, members in groupby(iter_tar_members(stream), lambda member: _split_name(member.name)[0]):
                files = {_split_name(member.name)[1]: member.read() for member in members}
                yield StoredMask(key, _read_record(files, f"{url}: {key}.{_RECORD}"), files.get(_MASK))
    except CorruptTarError as damage:
        raise CorruptShardError(f"{url}: {damage}; label its shard again") from damage


def _split_name(name: str) -> tuple[str, str]:
    """Split the name of a member into key and extension; the key may have dots."""
    for extension in (_MASK, _RECORD):
        if name.endswith(f".{extension}"):
            return name.removesuffix(f".{extension}"), extension
    key, extension = split_name(name)
    return key or name, extension


def _read_record(files: dict[str, bytes], name: str) -> MaskRecord:
    hint = "are these shards of vitatlas label --format png?"
    if _RECORD not in files:
        raise UsageError(f"{name} has no status and label, as there is no such member; {hint}")
    try:
        record = MaskRecord.read(files[_RECORD], name)
    except UsageError as error:
        raise UsageError(f"{error}; {hint}") from None
    if record.status == LabelStatus.OK and "label" not in record.model_fields_set:  # null is that of a text
        raise UsageError(f"{name} has no status and label; {hint}")
    return record


def decode_mask(data: bytes, name: str) -> NDArray[np.uint8]:
    """Return a mask, uint8 [H, W]: 0 background, 1 object, 255 ignored.

    Args:
        data: encoded.
        name: for errors.

    Raises:
        UsageError: it is not such a PNG.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            mode, values = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{name}: cannot be read as a PNG ({error})") from None
    if mode not in ("P", "L") or ((values > OBJECT) & (values != IGNORE)).any():
        raise UsageError(f"{name}: must be an indexed PNG of 0, 1 and {IGNORE}")
    return values
