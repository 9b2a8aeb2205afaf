"""Masks coded as ImageNet-S has them."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from pipeline.label.formats.base import Context, Read, Written
from pipeline.label.formats.naming import file_name
from pipeline.label.formats.png_encoding import IGNORE, OBJECT, png, values
from pipeline.label.mask import Label

_IGNORED = 1000


class ImageNetS:
    """``imagenet_s/<key>.png``: RGB, where R + 256 G is class index + 1, 0 other, 1000 ignore (Gao et al., PAMI 2022).

    The classes of ImageNet-S are sorted by WordNet id, so the ids agree with it where the input's are, too. Since 1000
    is taken, classes from index 999 on are index + 2.
    """

    by_key = True
    needs_heat = False

    def export(self, shard: str, labels: Iterable[Label], context: Context) -> Iterator[Written]:
        for label in labels:
            if label.mask_rle is not None:
                yield f"imagenet_s/{file_name(label.sample['key'])}.png", _picture(label)

    def merge(self, shards: Sequence[str], read: Read, context: Context) -> Iterator[Written]:
        yield from ()


def _id(label: Label) -> int:
    if label.class_index is None:
        raise ValueError(f"{label.sample['key']}: has no class")
    number = label.class_index + 1
    return number if number < _IGNORED else number + 1


def _picture(label: Label) -> bytes:
    coded = values(label)
    ids = np.zeros(coded.shape, np.uint16)
    ids[coded == OBJECT] = _id(label)
    ids[coded == IGNORE] = _IGNORED
    return png(Image.fromarray(np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=-1).astype(np.uint8)))
