"""Masks as a dataset on disk that FiftyOne imports."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from PIL import Image

from pipeline.label.formats.base import ExportContext, Read, Written, compact_json
from pipeline.label.formats.json_merge import joined
from pipeline.label.formats.naming import class_names, file_name
from pipeline.label.formats.png_encoding import encode_png, label_array
from pipeline.label.mask import Label

_MASKS = "fields/pseudo_mask"
"""FiftyOne takes paths in a field as relative where ``fields`` has a folder of its name."""


class FiftyOne:
    """``fiftyone`` is a ``fiftyone.types.FiftyOneDataset``, of the plain kind that does not depend on its database.

    Samples have ``pseudo_mask``, a ``Segmentation`` on disk with 0 background, 1 object, 255 ignore, in grey, since of
    an indexed PNG it takes the colours; ``pseudo_label``, a ``Classification`` with the probability as confidence;
    ``pseudo_boxes``, ``Detections``, one for each component; ``key``, ``row`` and ``status``. Images are looked for in
    ``fiftyone/data``, by their path in the shard: unpack or link them there.
    """

    names_files_by_key = True
    needs_heatmap = False

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[Written]:
        samples = []
        for label in labels:
            if label.mask_rle is None or label.class_id is None:
                continue
            mask = f"{_MASKS}/{file_name(label.sample['key'])}.png"
            yield f"fiftyone/{mask}", encode_png(Image.fromarray(label_array(label)))
            name = class_names([label.class_id], context)[label.class_id]
            samples.append(_sample(label, mask, name))
        yield f"fiftyone/shards/{shard}.json", compact_json({"samples": samples})

    def merge(self, shards: Sequence[str], read: Read, context: ExportContext) -> Iterator[Written]:
        parts = (json.loads(read(f"fiftyone/shards/{shard}.json")) for shard in shards)
        yield "fiftyone/samples.json", joined(parts, ["samples"], dict)
        info = {"policy": context.policy_hash, "mask_targets": {"1": "object", "255": "ignore"}}
        yield "fiftyone/metadata.json", compact_json({"media_type": "image", "info": info})


def _sample(label: Label, mask: str, name: str) -> dict[str, Any]:
    sample = label.sample
    return {
        "filepath": f"data/{file_name(sample['member'])}",
        "tags": [],
        "metadata": {"_cls": "ImageMetadata", "width": sample["width"], "height": sample["height"]},
        "key": sample["key"],
        "row": sample["row"],
        "status": label.status,
        "pseudo_mask": {"_cls": "Segmentation", "mask_path": mask},
        "pseudo_label": {"_cls": "Classification", "label": name, "confidence": label.probability},
        "pseudo_boxes": {"_cls": "Detections", "detections": [_box(label, box, name) for box in label.boxes or ()]},
    }


def _box(label: Label, box: tuple[int, int, int, int], name: str) -> dict[str, Any]:
    """FiftyOne measures boxes in fractions of the picture, x, y, width, height."""
    (x0, y0, x1, y1), width, height = box, label.sample["width"], label.sample["height"]
    sides = [x0 / width, y0 / height, (x1 - x0 + 1) / width, (y1 - y0 + 1) / height]
    return {"_cls": "Detection", "label": name, "bounding_box": sides}
