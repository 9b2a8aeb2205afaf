"""Masks as folders of indexed PNG files, as in PASCAL VOC."""

from collections.abc import Iterable, Iterator, Sequence

from pipeline.label.formats.base import ExportContext, LabelFormat, OutputObject, ReadObject
from pipeline.label.formats.naming import file_name
from pipeline.label.formats.png_encoding import VOC_PALETTE, encode_indexed_png, label_array
from pipeline.label.mask import Label
from schemas.errors import UsageError

_LISTS = "voc/ImageSets/Segmentation"
_ALL = "default"


class VocFormat(LabelFormat):
    """``voc/SegmentationClass/<key>.png``: 0 background, 1 object, 255 ignore, in the palette of VOC.

    Objects are 1 whatever their class, since 8 bits cannot hold the classes of ImageNet; the label table has the class.
    ``voc/ImageSets/Segmentation/<shard>.txt`` lists the keys of the masks of a shard, ``default.txt`` of all shards.
    """

    names_files_by_key = True

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        if shard == _ALL:
            raise UsageError(
                f"{shard}: the list of its keys would be overwritten by that of all shards; rename the shard"
            )
        keys = []
        for label in labels:
            if label.mask_rle is not None:
                keys.append(file_name(label.sample["key"]))
                yield f"voc/SegmentationClass/{keys[-1]}.png", encode_indexed_png(label_array(label), VOC_PALETTE)
        yield f"{_LISTS}/{shard}.txt", "".join(f"{key}\n" for key in keys).encode()

    def merge(self, shards: Sequence[str], read: ReadObject, context: ExportContext) -> Iterator[OutputObject]:
        yield f"{_LISTS}/{_ALL}.txt", b"".join(read(f"{_LISTS}/{shard}.txt") for shard in shards)
