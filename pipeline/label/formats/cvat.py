"""Masks for CVAT: its format "Segmentation mask 1.1"."""

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.label.formats.base import ExportContext, Read, Written
from pipeline.label.formats.naming import class_names, file_name
from pipeline.label.formats.png_encoding import IGNORE, OBJECT, encode_png, label_array, voc_color
from pipeline.label.mask import Label

_BACKGROUND, _IGNORED = "background", "ignore"


class Cvat:
    """``cvat/<shard>.zip``: a voc_color for each class, the same in every shard, and the label ``ignore`` beside them.

    Images go by their keys, which is how CVAT finds those of a task. The object is the first of an image, what is
    ignored the second. A class with a sign in its name that ``labelmap.txt`` has a use for goes by its number.
    """

    names_files_by_key = False
    needs_heatmap = False

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[Written]:
        keys: list[str] = []
        classes: set[int] = set()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for label in labels:
                if label.mask_rle is None or label.class_id is None:
                    continue
                key, coded = file_name(label.sample["key"], forbidden="#"), label_array(label)
                keys.append(key)
                classes.add(label.class_id)
                _add(
                    archive, f"SegmentationClass/{key}.png", _painted(coded, _colour(label.class_id), voc_color(IGNORE))
                )
                _add(archive, f"SegmentationObject/{key}.png", _painted(coded, voc_color(1), voc_color(2)))
            _add(archive, "ImageSets/Segmentation/default.txt", "".join(f"{key}\n" for key in keys).encode())
            _add(archive, "labelmap.txt", _label_map(classes, context).encode())
        yield f"cvat/{shard}.zip", buffer.getvalue()

    def merge(self, shards: Sequence[str], read: Read, context: ExportContext) -> Iterator[Written]:
        yield from ()


def _colour(class_id: int) -> tuple[int, int, int]:
    """Of a class: the next one in the palette of VOC, past those of the background and of what is ignored."""
    return voc_color(class_id + 1 if class_id + 1 < IGNORE else class_id + 2)


def _painted(coded: NDArray[np.uint8], thing: tuple[int, int, int], ignored: tuple[int, int, int]) -> bytes:
    palette = np.zeros((256, 3), np.uint8)
    palette[OBJECT], palette[IGNORE] = thing, ignored
    return encode_png(Image.fromarray(palette[coded]))


def _label_map(classes: Iterable[int], context: ExportContext) -> str:
    colours = {_BACKGROUND: voc_color(0)}
    for index, name in class_names(classes, context, (_BACKGROUND, _IGNORED)).items():
        colours[str(index) if set(name) & set(":#\n\r") else name] = _colour(index)
    colours[_IGNORED] = voc_color(IGNORE)
    lines = [f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in colours.items()]
    return "".join(["# label:color_rgb:parts:actions\n", *lines])


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name)  # of 1980, whenever it is made: equal labels make equal archives
    member.external_attr = 0o644 << 16
    archive.writestr(member, data)
