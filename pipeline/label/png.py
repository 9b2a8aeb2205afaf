"""Masks as PNG in tars that go with the input tars: same name, same keys, same order."""

import io
import tarfile
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

from pipeline.label.exporter import dumps
from pipeline.label.mask import Label, Mask
from pipeline.read.batches import climbs
from schemas.samples import Status


class Png:
    """``<key>.mask.png`` and ``<key>.json`` for each sample; a zip-join with the input tars pairs them.

    The PNG is indexed, one bit deep: 0 background, 1 object, shown black and white. A sample without a map
    has a JSON that says why, and no PNG; one whose key is unsafe or not its own has neither.
    """

    def name(self, tar: str) -> str:
        return f"png/{tar}.tar"

    def encode(self, labels: Iterable[Label], policy_hash: str) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for label in labels:
                if label.status in (Status.UNSAFE_KEY, Status.DUPLICATE_KEY) or climbs(label.sample["key"]):
                    continue  # no name of its own to be written under; the label table has it
                if label.mask is not None:
                    _add(archive, f"{label.sample['key']}.mask.png", encode_mask(label.mask))
                _add(archive, f"{label.sample['key']}.json", dumps(_about(label, policy_hash)))
        return buffer.getvalue()

    def merge(self, parts: Iterable[bytes]) -> Mapping[str, bytes]:
        return {}


def encode_mask(mask: Mask) -> bytes:
    """An indexed PNG of one bit: 0 and 1, black and white."""
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=1, optimize=True)
    return buffer.getvalue()


def _about(label: Label, policy_hash: str) -> dict[str, object]:
    return {
        "status": label.status,
        "label": label.class_index,
        "width": label.sample["width"],
        "height": label.sample["height"],
        "threshold": label.threshold,
        "area": label.area,
        "boxes": label.boxes,
        "policy": policy_hash,
    }


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time, no owner: equal labels make equal tars
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
