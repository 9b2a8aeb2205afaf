"""Masks for CVAT, in its format "Segmentation mask 1.1"."""

import io
import zipfile
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.label.formats.base import ExportContext, LabelFormat, OutputObject
from pipeline.label.formats.naming import file_name, unique_class_names
from pipeline.label.formats.png_encoding import IGNORE, OBJECT, Color, encode_png, label_array, voc_color
from pipeline.label.mask import Label

_BACKGROUND, _IGNORED = "background", "ignore"


class CvatFormat(LabelFormat):
    """``cvat/<shard>.zip``: a color for each class, the same in every shard, and the label ``ignore``.

    Images are named by their keys, by which CVAT finds the images of a task. In the instance masks the object is the
    first instance, the ignored pixels are the second. A class goes by its number if its name has a character that
    ``labelmap.txt`` uses as a separator.
    """

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        keys: list[str] = []
        class_ids: set[int] = set()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for label in labels:
                if label.mask_rle is None or label.class_id is None:
                    continue
                key, values = file_name(label.sample["key"], forbidden="#"), label_array(label)
                keys.append(key)
                class_ids.add(label.class_id)
                class_png = _color_png(values, _class_color(label.class_id), voc_color(IGNORE))
                _add_file(archive, f"SegmentationClass/{key}.png", class_png)
                object_png = _color_png(values, voc_color(1), voc_color(2))
                _add_file(archive, f"SegmentationObject/{key}.png", object_png)
            _add_file(archive, "ImageSets/Segmentation/default.txt", "".join(f"{key}\n" for key in keys).encode())
            _add_file(archive, "labelmap.txt", _label_map(class_ids, context).encode())
        yield f"cvat/{shard}.zip", buffer.getvalue()


def _class_color(class_id: int) -> Color:
    """Return the next color of the VOC palette, past those of background and ignored pixels."""
    return voc_color(class_id + 1 if class_id + 1 < IGNORE else class_id + 2)


def _color_png(values: NDArray[np.uint8], object_color: Color, ignore_color: Color) -> bytes:
    palette = np.zeros((256, 3), np.uint8)
    palette[OBJECT], palette[IGNORE] = object_color, ignore_color
    return encode_png(Image.fromarray(palette[values]))


def _label_map(class_ids: Iterable[int], context: ExportContext) -> str:
    colors = {_BACKGROUND: voc_color(0)}
    for class_id, name in unique_class_names(class_ids, context, (_BACKGROUND, _IGNORED)).items():
        colors[str(class_id) if set(name) & set(":#\n\r") else name] = _class_color(class_id)
    colors[_IGNORED] = voc_color(IGNORE)
    lines = [f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in colors.items()]
    return "".join(["# label:color_rgb:parts:actions\n", *lines])


def _add_file(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name)  # dated 1980, so that equal labels make equal archives
    member.external_attr = 0o644 << 16
    archive.writestr(member, data)
