"""Masks encoded as in ImageNet-S."""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from pipeline.label.formats.base import ExportContext, LabelFormat, OutputObject
from pipeline.label.formats.naming import file_name
from pipeline.label.formats.png_encoding import IGNORE, OBJECT, encode_png, label_array
from pipeline.label.mask import Label

_IGNORED = 1000


class ImageNetSFormat(LabelFormat):
    """``imagenet_s/<key>.png``: RGB, where R + 256 G is class id + 1, 0 other, 1000 ignore (Gao et al., TPAMI 2022).

    The classes of ImageNet-S are sorted by WordNet id, so its ids agree if those of the input are sorted so, too. Since
    1000 is taken, class ids from 999 on become class id + 2.
    """

    names_files_by_key = True

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        for label in labels:
            if label.mask_rle is not None:
                yield f"imagenet_s/{file_name(label.sample['key'])}.png", _encode_mask(label)


def _imagenet_s_id(label: Label) -> int:
    if label.class_id is None:
        raise ValueError(f"{label.sample['key']}: has no class")
    return label.class_id + 1 if label.class_id + 1 < _IGNORED else label.class_id + 2


def _encode_mask(label: Label) -> bytes:
    values = label_array(label)
    ids = np.zeros(values.shape, np.uint16)
    ids[values == OBJECT] = _imagenet_s_id(label)
    ids[values == IGNORE] = _IGNORED
    return encode_png(Image.fromarray(np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=-1).astype(np.uint8)))
