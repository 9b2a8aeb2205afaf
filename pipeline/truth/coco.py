"""Reader of COCO instance files: masks, boxes, or both.

Regions with ``iscrowd`` are ignored, because COCO excludes them from every count. A file of ViT Atlas says under
``info.vit_atlas`` of which image its coordinates are (``orientation``), that its names are whole keys (``whole_keys``),
and of which page its annotations are (``page``): there, an image without annotations is one without an object.
Elsewhere it is one that is not annotated.
Source: cocodataset.org/#format-data.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.image.iou import box_iou
from pipeline.read.sample_keys import sample_key
from pipeline.truth.box_truth import inclusive_box
from pipeline.truth.mask_folder import tight_boxes
from pipeline.truth.rle import decode
from pipeline.truth.truth import Boxes, Mask, Truth
from pipeline.truth.truth_faults import refuse_corners
from pipeline.truth.truth_set import TruthSet
from pipeline.utils.local_file import read_bytes
from schemas.annotations import CocoInfo
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import KeySeparator

INSTANCES = "instances.json"
PSEUDO_MASKS = "pseudo-masks"
"""Description of the COCO files of ``vitatlas label``."""


def matches(path: Path) -> bool:
    """Return True if the path is a COCO file, or a folder with one."""
    return path.suffix.lower() == ".json" if path.is_file() else (path / INSTANCES).is_file()


def read(path: Path, separator: KeySeparator = "first-dot") -> TruthSet:
    """Read the truth in a COCO file, or in a folder with ``instances.json``.

    Args:
        path: the file or folder.
        separator: dot of a file name that ends the key of its image.

    Raises:
        UsageError: it is not COCO; two images have one key or one id; an annotation belongs to no image, or has an
            ``iscrowd`` other than 0 and 1; all boxes are x0, y0, x1, y1.
    """
    file = path / INSTANCES if path.is_dir() else path
    data = read_bytes(file)
    try:
        content = json.loads(data)
        annotations = _group_by_image(content, file)
        images = [(image["id"], _parse_image(image, file, separator)) for image in content["images"]]
        own = _parse_own(content.get("info"), file)
        is_complete = own.page is not None or _is_of_label(content.get("info"))
        objects = [annotation for annotation in content["annotations"] if not _check_crowd(annotation, file)]
        has_masks = any(annotation.get("segmentation") for annotation in objects) or _is_of_label(content.get("info"))
        truths = [_make_truth(head, annotations[image_id], is_complete, has_masks) for image_id, head in images]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{file}: is not a COCO file of instances ({type(error).__name__}: {error})") from None
    if content["annotations"] and not objects:
        raise UsageError(f"{file}: all annotations have iscrowd 1, which marks regions to ignore; objects have 0")
    rows = [(*box, truth.width, truth.height) for truth in truths for box in truth.written_boxes_xywh()]
    numbers = np.array(rows, np.float64).reshape(-1, 6)
    refuse_corners(numbers[:, :4], numbers[:, 4:], file)
    keys_by_id = {image_id: key for image_id, (key, _, _) in images}
    truth = TruthSet.from_truths(file, sha256(data), truths, keys_by_id=keys_by_id)
    return replace(truth.with_options(own.orientation, None), whole_keys=own.whole_keys)


def _make_truth(
    head: tuple[str, int, int], annotations: Sequence[Mapping[str, Any]], is_complete: bool, has_masks: bool
) -> "CocoTruth":
    categories = _find_categories(annotations)
    return CocoTruth(*head, tuple(annotations), is_complete=is_complete, has_masks=has_masks, categories=categories)


def _parse_own(info: object, file: Path) -> CocoInfo:
    own = info.get("vit_atlas", {}) if isinstance(info, dict) else {}
    return CocoInfo.read(json.dumps(own).encode(), f"{file}: info.vit_atlas")


def _is_of_label(info: object) -> bool:
    """Return whether ``vitatlas label`` wrote the file, in which each image has its mask, also an empty one."""
    return isinstance(info, dict) and info.get("description") == PSEUDO_MASKS and "policy" in info


def refuse_mixed_categories(path: Path, key: str, annotations: Iterable[Mapping[str, Any]]) -> None:
    """Refuse objects of several categories in one image, whose union would be the mask of none of them.

    Args:
        path: of the file, for the error.
        key: of the image.
        annotations: of the image, or results.

    Raises:
        UsageError: they are of several categories.
    """
    categories = _find_categories(annotations)
    if len(categories) > 1:
        names = " and ".join(sorted(categories)[:2])
        raise UsageError(f"{path}: {key} has masks of the categories {names}; leave those of one category")


def _find_categories(annotations: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(str(annotation.get("category_id")) for annotation in annotations if not _is_crowd(annotation))


def _is_crowd(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("iscrowd"))


def _check_crowd(annotation: Mapping[str, Any], file: Path) -> bool:
    """Return whether an annotation is of a crowd; refuse what says neither, such as the text ``"0"``."""
    if annotation.get("iscrowd") not in (None, 0, 1):
        fault = f"annotation {annotation.get('id')!r:.60} has iscrowd {annotation['iscrowd']!r:.60}"
        raise UsageError(f"{file}: {fault}; write 0 for an object, 1 for a region to ignore")
    return _is_crowd(annotation)


def _group_by_image(content: Mapping[str, Any], file: Path) -> Mapping[int, Sequence[Mapping[str, Any]]]:
    annotations: dict[int, list[Mapping[str, Any]]] = {}
    for image in content["images"]:
        if image["id"] in annotations:
            raise UsageError(f"{file}: two images have the id {image['id']!r:.60}; give each its own")
        annotations[image["id"]] = []
    for annotation in content["annotations"]:
        image_id = annotation["image_id"]
        if image_id not in annotations:
            fault = f"annotation {annotation.get('id')!r:.60} is of image {image_id!r:.60}, which does not exist"
            raise UsageError(f"{file}: {fault}; add the image, or remove the annotation")
        annotations[image_id].append(annotation)
    return annotations


def _parse_image(image: Mapping[str, Any], file: Path, separator: KeySeparator) -> tuple[str, int, int]:
    key, width, height = sample_key(image["file_name"], separator), image["width"], image["height"]
    if not all(isinstance(side, int) and side > 0 for side in (width, height)):
        raise UsageError(f"{file}: {key} has the size {width!r}×{height!r}; write the size of the image in pixels")
    return key, width, height


def _is_empty_box(annotation: Mapping[str, Any]) -> bool:
    """Return whether the box of an annotation is a point or a line."""
    box = annotation.get("bbox")
    return isinstance(box, list) and len(box) == 4 and (box[2] == 0 or box[3] == 0)


@dataclass(frozen=True, eq=False)
class CocoTruth(Truth):
    """The annotations of one image, as stored by COCO.

    Attributes:
        annotations: of objects and crowds.
        is_complete: the image has no other object, so that it has none if there are no annotations.
        has_masks: the file has masks of objects, so that an image without an object has an empty mask.
    """

    annotations: tuple[Mapping[str, Any], ...]
    is_complete: bool = field(default=False, kw_only=True)
    has_masks: bool = field(default=False, kw_only=True)

    @property
    def is_annotated(self) -> bool:
        return self.is_complete or bool(self.annotations)

    @cached_property
    def _objects(self) -> tuple[Mapping[str, Any], ...]:
        """Objects that have an area: annotation tools leave points and lines behind."""
        objects = (item for item in self.annotations if not _is_crowd(item))
        return tuple(item for item in objects if not _is_empty_box(item) or self._has_mask(item))

    def _has_mask(self, annotation: Mapping[str, Any]) -> bool:
        return bool(annotation.get("segmentation")) and bool(self._merge_masks([annotation]).any())

    @property
    def _size(self) -> tuple[int, int]:
        assert self.width is not None, "COCO gives the size of every image"
        assert self.height is not None, "COCO gives the size of every image"
        return self.width, self.height

    @property
    def boxes(self) -> Boxes:
        return np.array([self._clip_box(annotation) for annotation in self._objects], np.int64).reshape(-1, 4)

    def written_boxes_xywh(self) -> Iterator[tuple[float, float, float, float]]:
        """Yield x, y, width, height of each object whose box has four finite numbers."""
        for annotation in self.annotations:
            box = annotation.get("bbox")
            if _is_crowd(annotation) or not isinstance(box, list) or len(box) != 4:
                continue
            if all(isinstance(side, int | float) and math.isfinite(side) for side in box):
                yield tuple(box)

    @property
    def written_boxes(self) -> NDArray[np.float64]:
        return np.array([inclusive_box(*box) for box in self.written_boxes_xywh()], np.float64).reshape(-1, 4)

    def _clip_box(self, annotation: Mapping[str, Any]) -> list[int]:
        limits = self._size
        if _is_empty_box(annotation):  # but it has a mask
            return tight_boxes(self._merge_masks([annotation]).astype(np.int32))[0].tolist()
        try:
            x, y, width, height = (float(side) for side in annotation["bbox"])
            if not all(map(math.isfinite, (x, y, width, height))):
                raise ValueError("not all of its numbers are finite")
            box = inclusive_box(x, y, width, height)
            clipped = [round(min(max(side, 0), limit - 1)) for side, limit in zip(box, limits * 2, strict=True)]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._error(annotation, "bbox", error) from None
        if not (width > 0 and height > 0 and x < limits[0] and y < limits[1] and x + width > 0 and y + height > 0):
            raise self._error(annotation, "bbox", "it has no area in the image")
        if max(x + width, y + height) <= 1 and (width < 1 or height < 1):
            raise self._error(annotation, "bbox", "it is a part of one pixel; are these fractions of the image?")
        return clipped

    def box_fits(self) -> Iterator[float]:
        for annotation in self._objects:
            if annotation.get("segmentation") and not _is_empty_box(annotation):
                around = tight_boxes(self._merge_masks([annotation]).astype(np.int32))
                box = np.array([self._clip_box(annotation)])
                yield float(box_iou(box, around).item()) if len(around) else 0.0

    @property
    def mask(self) -> Mask | None:
        if self.has_masks and self.is_annotated and all(map(_is_crowd, self.annotations)):
            return self._merge_masks([])
        if not all(annotation.get("segmentation") for annotation in self._objects):
            return None
        mask = self._merge_masks(self._objects)
        return mask if mask.any() else None

    @property
    def ignore(self) -> Mask:
        return self._merge_masks([annotation for annotation in self.annotations if _is_crowd(annotation)])

    def _merge_masks(self, annotations: Iterable[Mapping[str, Any]]) -> Mask:
        width, height = self._size
        union = np.zeros((height, width), bool)
        for annotation in annotations:
            try:
                union |= decode(annotation["segmentation"], width, height)
            except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
                raise self._error(annotation, "segmentation", error) from None
        return union

    def _error(self, annotation: Mapping[str, Any], name: str, reason: object) -> UsageError:
        return UsageError(
            f"truth of {self.key}: the {name} of annotation {annotation.get('id')} cannot be used "
            f"({str(annotation.get(name))[:60]}: {reason}); correct or remove it"
        )
