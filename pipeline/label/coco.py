"""Masks as COCO annotations with compressed run lengths."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pycocotools import mask as rle

from pipeline.label.exporter import dumps
from pipeline.label.mask import Label


class Coco:
    """One annotation for each sample with a mask that is not empty; ids of images are their rows.

    Categories are the class indices as they are in the input (COCO itself begins at 1). ``iscrowd`` is 0,
    since readers that take run lengths for crowds would leave the masks out.
    """

    def name(self, tar: str) -> str:
        return f"coco/{tar}.json"

    def encode(self, labels: Iterable[Label], policy_hash: str) -> bytes:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for label in labels:
            if label.mask is None:
                continue
            sample = label.sample
            images.append(
                {
                    "id": sample["row"],
                    "file_name": sample["member"],
                    "width": sample["width"],
                    "height": sample["height"],
                }
            )
            if label.status == "ok":
                annotations.append(_annotation(label))
        classes = sorted({annotation["category_id"] for annotation in annotations})
        return dumps(
            {
                "info": {"description": "pseudo-masks", "policy": policy_hash},
                "images": images,
                "annotations": annotations,
                "categories": _categories(classes),
            }
        )

    def merge(self, parts: Iterable[bytes]) -> Mapping[str, bytes]:
        merged: dict[str, Any] = {}
        for part in map(json.loads, parts):
            merged.setdefault("info", part["info"])
            for name in ("images", "annotations"):
                merged.setdefault(name, []).extend(part[name])
        merged["categories"] = _categories(sorted({each["category_id"] for each in merged["annotations"]}))
        return {"coco/instances.json": dumps(merged)}


def _annotation(label: Label) -> dict[str, Any]:
    coded = rle.encode(np.asfortranarray(label.mask, np.uint8))
    return {
        "id": label.sample["row"] + 1,  # pycocotools takes the id 0 for no match
        "image_id": label.sample["row"],
        "category_id": label.class_index,
        "segmentation": {"size": coded["size"], "counts": coded["counts"].decode("ascii")},
        "area": int(rle.area(coded)),
        "bbox": [float(side) for side in rle.toBbox(coded)],
        "iscrowd": 0,
    }


def _categories(classes: Iterable[int]) -> list[dict[str, Any]]:
    return [{"id": index, "name": str(index)} for index in classes]
