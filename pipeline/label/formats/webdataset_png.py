"""Masks as PNG in WebDataset shards with the names, keys and order of the input shards."""

import io
import tarfile
from collections.abc import Iterable, Iterator

from pipeline.label.formats.base import ExportContext, LabelFormat, OutputObject, compact_json, has_unique_key
from pipeline.label.formats.png_encoding import GRAY_PALETTE, IGNORE, encode_indexed_png, label_array
from pipeline.label.mask import Label


class WebDatasetPngFormat(LabelFormat):
    """``png/<shard>.tar``: ``<key>.mask.png`` and ``<key>.json`` for each sample, to zip-join with the input shard.

    The PNG is indexed, 0 background and 1 object, shown black and white. It has one bit per pixel, or eight if it has
    pixels to ignore, which are 255 and shown gray. A sample without a mask has a JSON with the reason, and no PNG; one
    whose key is unsafe or a duplicate has neither. The JSON also says how the run found the images: see
    ``schemas.labels.MaskRecord``.
    """

    needs_class = False

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for label in filter(has_unique_key, labels):
                if label.mask_rle is not None:
                    _add_member(archive, f"{label.sample['key']}.mask.png", _encode_mask(label))
                _add_member(archive, f"{label.sample['key']}.json", compact_json(_metadata(label, context)))
        yield f"png/{shard}.tar", buffer.getvalue()


def _encode_mask(label: Label) -> bytes:
    values = label_array(label)
    return encode_indexed_png(values, GRAY_PALETTE, bits=8 if (values == IGNORE).any() else 1)


def _metadata(label: Label, context: ExportContext) -> dict[str, object]:
    return {
        "status": label.status,
        "label": label.class_id,
        "width": label.sample["width"],
        "height": label.sample["height"],
        "orientation": label.sample["orientation"],
        "exif": label.exif,
        "key_separator": context.grouping.key_separator,
        "image_key": context.grouping.image_key,
        "threshold": label.threshold,
        "background": label.background,
        "area": label.area,
        "ignored": label.ignored,
        "boxes": label.boxes,
        "agreement": label.agreement,
        "probability": label.probability,
        "policy": context.policy_hash,
    }


def _add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time, no owner, so that equal labels make equal shards
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
