"""Masks coded as ImageNet-S has them."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from pipeline.label.formats.base import ExportContext, Read, Written
from pipeline.label.formats.naming import file_name
from pipeline.label.formats.png_encoding import IGNORE, OBJECT, encode_png, label_array
from pipeline.label.mask import Label

_IGNORED = 1000


class ImageNetS:
    """``imagenet_s/<key>.png``: RGB, where R + 256 G is class index + 1, 0 other, 1000 ignore (Gao et al., PAMI 2022).

    The classes of ImageNet-S are sorted by WordNet id, so the ids agree with it where the input's are, too. Since 1000
    is taken, classes from index 999 on are index + 2.
    """

    names_files_by_key = True
    needs_heatmap = False

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[Written]:
        for label in labels:
            if label.mask_rle is not None:
                yield f"imagenet_s/{file_name(label.sample['key'])}.png", _picture(label)

    def merge(self, shards: Sequence[str], read: Read, context: ExportContext) -> Iterator[Written]:
        yield from ()


def _id(label: Label) -> int:
    if label.class_id is None:
        raise ValueError(f"{label.sample['key']}: has no class")
    number = label.class_id + 1
    return number if number < _IGNORED else number + 1


def _picture(label: Label) -> bytes:
    coded = label_array(label)
    ids = np.zeros(coded.shape, np.uint16)
    ids[coded == OBJECT] = _id(label)
    ids[coded == IGNORE] = _IGNORED
    return encode_png(Image.fromarray(np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=-1).astype(np.uint8)))
