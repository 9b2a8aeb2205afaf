"""Masks as COCO annotations with compressed run lengths."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pycocotools import mask as rle

from pipeline.label.formats.base import ExportContext, Read, Written, compact_json
from pipeline.label.formats.json_merge import joined
from pipeline.label.formats.naming import class_names
from pipeline.label.mask import Label, Rle


class Coco:
    """An annotation for each mask that is not empty, and one with ``iscrowd`` for the pixels to ignore, if any.

    Ids of images are their rows, and ``file_name`` is the member's in the shard. Annotations of row r are 2r + 1 and, of
    what is ignored, 2r + 2. Category ids are the class indices as they are in the input (COCO itself begins at 1).
    ``iscrowd`` of a mask is 0, since readers that take run lengths for crowds would leave it out.
    """

    names_files_by_key = False
    needs_heatmap = False

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[Written]:
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
        content = {"annotations": annotations, "images": images, **_rest(_classes(annotations), context)}
        yield f"coco/shards/{shard}.json", compact_json(content)

    def merge(self, shards: Sequence[str], read: Read, context: ExportContext) -> Iterator[Written]:
        classes: set[int] = set()

        def parts() -> Iterator[Mapping[str, Any]]:
            for shard in shards:
                part = json.loads(read(f"coco/shards/{shard}.json"))
                classes.update(each["id"] for each in part["categories"])
                yield part

        yield "coco/instances.json", joined(parts(), ("annotations", "images"), lambda: _rest(classes, context))


def _annotations(label: Label) -> Iterator[dict[str, Any]]:
    for crowd, coded in enumerate((label.mask_rle, label.ignore_rle)):
        if coded is not None and rle.area(coded):
            yield _annotation(label, coded, crowd)


def _annotation(label: Label, coded: Rle, crowd: int) -> dict[str, Any]:
    return {
        "id": 2 * label.sample["row"] + 1 + crowd,  # never 0, which pycocotools takes for no match
        "image_id": label.sample["row"],
        "category_id": label.class_id,
        "segmentation": {"size": coded["size"], "counts": coded["counts"].decode("ascii")},
        "area": int(rle.area(coded)),
        "bbox": rle.toBbox(coded).tolist(),
        "iscrowd": crowd,
    }


def _classes(annotations: Iterable[Mapping[str, Any]]) -> set[int]:
    return {each["category_id"] for each in annotations}


def _rest(classes: Iterable[int], context: ExportContext) -> dict[str, Any]:
    return {
        "categories": [{"id": index, "name": name} for index, name in class_names(classes, context).items()],
        "info": {"description": "pseudo-masks", "policy": context.policy_hash},
    }
