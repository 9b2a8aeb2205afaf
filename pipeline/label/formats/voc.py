"""Masks as folders of indexed PNG files, as in PASCAL VOC."""

from collections.abc import Iterable, Iterator, Sequence

from pipeline.label.formats.base import ExportContext, LabelFormat, OutputObject, ReadObject
from pipeline.label.formats.naming import file_name
from pipeline.label.formats.png_encoding import IGNORE, OBJECT, VOC_PALETTE, encode_indexed_png, label_array, voc_color
from pipeline.label.mask import Label

_LABEL_MAP = "".join(
    f"{name}:{','.join(map(str, voc_color(value)))}::\n"
    for name, value in (("background", 0), ("object", OBJECT), ("ignore", IGNORE))
)


class VocFormat(LabelFormat):
    """``voc/SegmentationClass/<key>.png``: 0 background, 1 object, 255 ignore, in the palette of VOC.

    Objects are 1 whatever their class, since 8 bits cannot hold the classes of ImageNet; the label table has the class.
    ``voc/labelmap.txt`` names the values by their colors. ``voc/ImageSets/Segmentation/train.txt`` lists the keys of
    all masks. It is the only list, since readers load an image once for each list that names it.
    ``voc/shards/<shard>.txt`` lists those of a shard.
    """

    names_files_by_key = True
    needs_class = False

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        keys = []
        for label in labels:
            if label.mask_rle is not None:
                keys.append(file_name(label.sample["key"]))
                yield f"voc/SegmentationClass/{keys[-1]}.png", encode_indexed_png(label_array(label), VOC_PALETTE)
        yield f"voc/shards/{shard}.txt", "".join(f"{key}\n" for key in keys).encode()

    def merge(self, shards: Sequence[str], read: ReadObject, context: ExportContext) -> Iterator[OutputObject]:
        yield "voc/labelmap.txt", f"# label:color_rgb:parts:actions\n{_LABEL_MAP}".encode()
        yield "voc/ImageSets/Segmentation/train.txt", b"".join(read(f"voc/shards/{shard}.txt") for shard in shards)
