"""Masks as COCO annotations with compressed run lengths."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pycocotools import mask as rle

from pipeline.label.formats.base import ExportContext, LabelFormat, OutputObject, ReadObject, compact_json
from pipeline.label.formats.json_merge import merge_json_lists
from pipeline.label.formats.naming import unique_class_names
from pipeline.label.mask import Label, Rle
from pipeline.truth.coco import PSEUDO_MASKS

FIRST_CATEGORY = 1
"""Category id of class id 0."""


class CocoFormat(LabelFormat):
    """``coco/instances.json``: an annotation for each mask that is not empty, and one for the ignored pixels, if any.

    The id of an image is its row, and its ``file_name`` is the name of the member in the shard. Annotations of row r
    have the ids 2r + 1 and, for ignored pixels, 2r + 2. A category id is the class id + 1, because those of COCO begin
    at 1 and readers rely on it. Ignored pixels have ``iscrowd`` 1. Masks have 0, although they are run lengths: readers
    leave crowds out.
    """

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for label in labels:
            if label.mask_rle is None:
                continue
            images.append(
                {
                    "id": label.sample["row"],
                    "file_name": label.sample["member"],
                    "width": label.sample["width"],
                    "height": label.sample["height"],
                }
            )
            annotations += _annotations(label)
        class_ids = {annotation["category_id"] - FIRST_CATEGORY for annotation in annotations}
        content = {"annotations": annotations, "images": images, **_categories_and_info(class_ids, context)}
        yield f"coco/shards/{shard}.json", compact_json(content)

    def merge(self, shards: Sequence[str], read: ReadObject, context: ExportContext) -> Iterator[OutputObject]:
        class_ids: set[int] = set()

        def iter_parts() -> Iterator[Mapping[str, Any]]:
            for shard in shards:
                part = json.loads(read(f"coco/shards/{shard}.json"))
                class_ids.update(category["id"] - FIRST_CATEGORY for category in part["categories"])
                yield part

        lists = ("annotations", "images")
        content = merge_json_lists(iter_parts(), lists, lambda: _categories_and_info(class_ids, context))
        yield "coco/instances.json", content


def _annotations(label: Label) -> Iterator[dict[str, Any]]:
    for crowd, mask in enumerate((label.mask_rle, label.ignore_rle)):
        if mask is not None and label.class_id is not None and rle.area(mask):
            yield _annotation(label, label.class_id, mask, crowd)


def _annotation(label: Label, class_id: int, mask: Rle, crowd: int) -> dict[str, Any]:
    return {
        "id": 2 * label.sample["row"] + 1 + crowd,  # never 0, which pycocotools takes for no match
        "image_id": label.sample["row"],
        "category_id": class_id + FIRST_CATEGORY,
        "segmentation": {"size": mask["size"], "counts": mask["counts"].decode("ascii")},
        "area": int(rle.area(mask)),
        "bbox": rle.toBbox(mask).tolist(),
        "iscrowd": crowd,
    }


def _categories_and_info(class_ids: Iterable[int], context: ExportContext) -> dict[str, Any]:
    names = unique_class_names(class_ids, context)
    return {
        "categories": [{"id": class_id + FIRST_CATEGORY, "name": name} for class_id, name in names.items()],
        "info": {"description": PSEUDO_MASKS, "policy": context.policy_hash},
    }
