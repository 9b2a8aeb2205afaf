"""Masks as folders of indexed PNG, as PASCAL VOC has them."""

from collections.abc import Iterable, Iterator, Sequence

from pipeline.label.formats.base import ExportContext, Read, Written
from pipeline.label.formats.naming import file_name
from pipeline.label.formats.png_encoding import VOC, encode_indexed_png, label_array
from pipeline.label.mask import Label
from schemas.errors import UsageError

_LISTS = "voc/ImageSets/Segmentation"
_ALL = "default"


class Voc:
    """``voc/SegmentationClass/<key>.png``: 0 background, 1 object, 255 ignore, in the palette of VOC.

    Objects are 1 whatever their class, since 8 bits do not hold those of ImageNet; the label table has the class.
    Keys of the masks of a shard stand in ``voc/ImageSets/Segmentation/<shard>.txt``, those of all shards in ``default.txt``.
    """

    names_files_by_key = True
    needs_heatmap = False

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[Written]:
        if shard == _ALL:
            raise UsageError(f"{shard}: the list of its keys would be taken for that of all shards; rename the shard")
        keys = []
        for label in labels:
            if label.mask_rle is not None:
                keys.append(file_name(label.sample["key"]))
                yield f"voc/SegmentationClass/{keys[-1]}.png", encode_indexed_png(label_array(label), VOC)
        yield f"{_LISTS}/{shard}.txt", "".join(f"{key}\n" for key in keys).encode()

    def merge(self, shards: Sequence[str], read: Read, context: ExportContext) -> Iterator[Written]:
        yield f"{_LISTS}/{_ALL}.txt", b"".join(read(f"{_LISTS}/{shard}.txt") for shard in shards)
