"""Masks as PNG in shards that go with the input shards: same name, same keys, same order."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence

from pipeline.label.formats.base import ExportContext, Read, Written, compact_json, has_unique_key
from pipeline.label.formats.png_encoding import GRAYS, IGNORE, encode_indexed_png, label_array
from pipeline.label.mask import Label


class Png:
    """``<key>.mask.png`` and ``<key>.json`` for each sample; a zip-join with the input shards pairs them.

    The PNG is indexed, 0 background and 1 object, shown black and white: one bit deep, or eight where it has pixels
    to ignore, which are 255 and shown grey. A sample without a mask has a JSON that says why, and no PNG; one whose
    key is unsafe or not its own has neither.
    """

    names_files_by_key = False
    needs_heatmap = False

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[Written]:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for label in filter(has_unique_key, labels):
                if label.mask_rle is not None:
                    _add(archive, f"{label.sample['key']}.mask.png", _picture(label))
                _add(archive, f"{label.sample['key']}.json", compact_json(_about(label, context)))
        yield f"png/{shard}.tar", buffer.getvalue()

    def merge(self, shards: Sequence[str], read: Read, context: ExportContext) -> Iterator[Written]:
        yield from ()


def _picture(label: Label) -> bytes:
    coded = label_array(label)
    return encode_indexed_png(coded, GRAYS, bits=8 if (coded == IGNORE).any() else 1)


def _about(label: Label, context: ExportContext) -> dict[str, object]:
    return {
        "status": label.status,
        "label": label.class_id,
        "width": label.sample["width"],
        "height": label.sample["height"],
        "threshold": label.threshold,
        "background": label.background,
        "area": label.area,
        "ignored": label.ignored,
        "boxes": label.boxes,
        "agreement": label.agreement,
        "probability": label.probability,
        "policy": context.policy_hash,
    }


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time, no owner: equal labels make equal shards
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
