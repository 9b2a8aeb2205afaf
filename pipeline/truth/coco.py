"""COCO files of instances: masks, boxes, or both.

Regions with ``iscrowd`` are ignored: COCO leaves them out of every count.
Source: cocodataset.org/#format-data.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.read.samples import key_of
from pipeline.truth.csv_lines import contents
from pipeline.truth.rle import decode
from pipeline.truth.truth import Boxes, Mask, Truth, Truths
from schemas.base import sha256
from schemas.errors import UsageError

INSTANCES = "instances.json"


def there(path: Path) -> bool:
    """Whether this is a COCO file, or a folder with one."""
    return path.suffix.lower() not in (".txt", ".csv", ".xml") if path.is_file() else (path / INSTANCES).is_file()


def read(path: Path) -> Truths:
    """Truth from a COCO file, or a folder with ``instances.json``.

    Raises:
        UsageError: it is not COCO; two pictures have one key or one id; an annotation is of no picture.
    """
    file = path / INSTANCES if path.is_dir() else path
    data = contents(file)
    try:
        content = json.loads(data)
        annotations = _by_image(content, file)
        truths = [CocoTruth(*_picture(image, file), tuple(annotations[image["id"]])) for image in content["images"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{file}: is not a COCO file of instances ({type(error).__name__}: {error})") from None
    return Truths.gather(file, sha256(data), truths)


def _by_image(content: Mapping[str, Any], file: Path) -> Mapping[int, Sequence[Mapping[str, Any]]]:
    annotations: dict[int, list[Mapping[str, Any]]] = {}
    for image in content["images"]:
        if image["id"] in annotations:
            raise UsageError(f"{file}: two images have the id {image['id']!r:.60}; give each its own")
        annotations[image["id"]] = []
    for each in content["annotations"]:
        if each["image_id"] not in annotations:
            what = f"annotation {each.get('id')!r:.60} is of image {each['image_id']!r:.60}, which is not there"
            raise UsageError(f"{file}: {what}; add the image, or take the annotation out")
        annotations[each["image_id"]].append(each)
    return annotations


def _picture(image: Mapping[str, Any], file: Path) -> tuple[str, int, int]:
    key, width, height = key_of(image["file_name"]), image["width"], image["height"]
    if not all(isinstance(side, int) and side > 0 for side in (width, height)):
        raise UsageError(f"{file}: {key} has the size {width!r}×{height!r}; write those of the picture")
    return key, width, height


@dataclass(frozen=True, eq=False)
class CocoTruth(Truth):
    """The annotations of one picture, as COCO has them."""

    annotations: tuple[Mapping[str, Any], ...]

    @property
    def annotated(self) -> bool:
        return bool(self.annotations)

    @cached_property
    def _objects(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(each for each in self.annotations if not each.get("iscrowd"))

    @property
    def _size(self) -> tuple[int, int]:
        assert self.width is not None, "COCO says the size of every picture"
        assert self.height is not None, "COCO says the size of every picture"
        return self.width, self.height

    @property
    def corners(self) -> Boxes:
        return np.array([self._corners(each) for each in self._objects], np.int64).reshape(-1, 4)

    def _corners(self, annotation: Mapping[str, Any]) -> list[int]:
        limits = self._size
        try:
            x, y, width, height = (float(side) for side in annotation["bbox"])
            if not all(map(math.isfinite, (x, y, width, height))):
                raise ValueError("not all of its numbers are finite")
            box = [x, y, x + width - 1, y + height - 1]
            whole = [round(min(max(side, 0), limit - 1)) for side, limit in zip(box, limits * 2, strict=True)]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._wrong(annotation, "bbox", error) from None
        if not (width > 0 and height > 0 and x < limits[0] and y < limits[1] and x + width > 0 and y + height > 0):
            raise self._wrong(annotation, "bbox", "it has no area in the picture")
        return whole

    @property
    def mask(self) -> Mask | None:
        if not self._objects or not all(each.get("segmentation") for each in self._objects):
            return None
        return self._union(self._objects)

    @property
    def ignore(self) -> Mask:
        return self._union([each for each in self.annotations if each.get("iscrowd")])

    def _union(self, annotations: Iterable[Mapping[str, Any]]) -> Mask:
        width, height = self._size
        union = np.zeros((height, width), bool)
        for each in annotations:
            try:
                union |= decode(each["segmentation"], width, height)
            except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
                raise self._wrong(each, "segmentation", error) from None
        return union

    def _wrong(self, annotation: Mapping[str, Any], field: str, why: object) -> UsageError:
        return UsageError(
            f"truth of {self.key}: the {field} of annotation {annotation.get('id')} cannot be used "
            f"({str(annotation.get(field))[:60]}: {why})"
        )
