"""One shard: its tar, and the truth of its images.

The bytes of images are copied. Members have no time and no owner, so that the same source gives the same tar.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from pipeline.image import parse_exif_orientation
from pipeline.image.orientation import swaps_sides
from pipeline.pack.source import Annotations, SourceImage, SourceObject
from pipeline.read.decode import open_image
from pipeline.read.strip_metadata import UndecodableImageError
from pipeline.utils.atomic_write import open_atomically, write_atomically
from pipeline.utils.local_file import file_sha256
from schemas.pack import LeftOut, PackedShard
from schemas.text import escape_control


@dataclass(frozen=True)
class ShardTask:
    """What is to be written.

    Attributes:
        tar: path of the shard.
        record: path of the record that is written after it.
        images: of the shard with their keys, in order.
        classes: name of each class id.
    """

    tar: Path
    record: Path
    images: Sequence[tuple[str, SourceImage]]
    classes: tuple[str, ...]


def write_shard(task: ShardTask) -> PackedShard:
    """Write a shard, and its record last. An image that is no image is left out.

    Raises:
        UsageError: an annotation is not as the source's format has it.
    """
    left_out, images, annotations, new_names = [], list[dict[str, Any]](), list[tuple[dict[str, Any], ...]](), {}
    with (
        open_atomically(str(task.tar)) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for key, image in task.images:
            try:
                data = image.file.read()
                width, height, orientation = _measure(data)
            except (OSError, UndecodableImageError) as error:
                left_out.append(LeftOut(name=image.name, reason=f"cannot be read: {error}"))
                continue
            name = f"{key}.{image.name.rpartition('.')[2].lower()}"
            for member, content in [(name, data), *_describe(key, image, task.classes)]:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            new_names[image.name] = name
            if image.read_annotations:
                truth = image.read_annotations(width, height)
                size, reasons = _check(truth, (width, height), orientation)
                left_out += [LeftOut(name=image.name, reason=reason) for reason in reasons]
                images.append({"file_name": name, "width": size[0], "height": size[1]})
                annotations.append(tuple(_to_coco(item, size) for item in truth.objects if _fault(item, size) is None))
    record = PackedShard(
        samples=len(new_names),
        size=task.tar.stat().st_size,
        sha256=file_sha256(task.tar),
        left_out=tuple(left_out),
        images=tuple(images),
        annotations=tuple(annotations),
        new_names=new_names,
    )
    write_atomically(str(task.record), record.to_bytes())
    return record


def _measure(data: bytes) -> tuple[int, int, int]:
    """Return stored width and height, and the EXIF orientation."""
    image, stripped = open_image(data)
    return image.width, image.height, parse_exif_orientation(stripped.exif)


def _describe(key: str, image: SourceImage, classes: Sequence[str]) -> Iterable[tuple[str, bytes]]:
    """Yield the members beside the image: its class ids, and what else is known of it."""
    if image.class_ids:
        # Of two classes, 0 1 may also be a 0 or 1 for each class.
        numbers = (1, 1) if len(image.class_ids) == len(classes) == 2 else image.class_ids
        yield f"{key}.cls", " ".join(map(str, numbers)).encode()
    facts: dict[str, Any] = {"filename": escape_control(image.name)}
    if image.class_ids:
        facts |= {"labels": image.class_ids, "classes": [classes[number] for number in image.class_ids]}
    yield f"{key}.json", json.dumps(facts, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _check(truth: Annotations, stored: tuple[int, int], orientation: int) -> tuple[tuple[int, int], list[str]]:
    """Return the size that the coordinates are of, and what is left out of the truth."""
    upright = stored[::-1] if swaps_sides(orientation) else stored
    size, reasons = stored, []
    if truth.size in (stored, upright):
        size = truth.size
    elif truth.size is not None:
        reasons.append(
            f"its annotation says {truth.size[0]}×{truth.size[1]} pixels, but it has {stored[0]}×{stored[1]}"
        )
    faults = [fault for item in truth.objects if (fault := _fault(item, size))]
    return size, reasons + [f"an object is left out of the truth: {fault}" for fault in faults]


def _fault(item: SourceObject, size: tuple[int, int]) -> str | None:
    if item.box is None:
        return None
    x, y, width, height = item.box
    text = ",".join(f"{side:g}" for side in item.box)
    if width <= 0 or height <= 0:
        return f"its box x,y,width,height {text} has no area"
    return None if x < size[0] and y < size[1] and x + width > 0 and y + height > 0 else f"its box {text} is outside"


def _to_coco(item: SourceObject, size: tuple[int, int]) -> dict[str, Any]:
    """Return an object as COCO has it. A region to ignore is one of pixels there, so a box alone is filled."""
    annotation: dict[str, Any] = {"category_id": item.class_id + 1, "iscrowd": int(item.ignored)}
    box, mask = item.box, item.mask
    if mask is None and item.segmentation is None and item.ignored and box is not None:
        mask = np.zeros(size[::-1], bool)
        low, high = np.maximum(np.rint(box[:2]), 0).astype(int), np.rint(np.add(box[:2], box[2:])).astype(int)
        mask[low[1] : high[1], low[0] : high[0]] = True
    if mask is not None:
        encoded = rle.encode(np.asfortranarray(mask, np.uint8))
        annotation["segmentation"] = {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}
        x, y, width, height = map(float, rle.toBbox(encoded))
        box = box or (x, y, width, height)
    elif item.segmentation is not None:
        annotation["segmentation"] = item.segmentation
    if box is not None:
        annotation |= {"bbox": list(box), "area": box[2] * box[3]}
    return annotation
