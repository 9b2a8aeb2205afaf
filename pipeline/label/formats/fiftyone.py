"""Masks as a dataset on disk that FiftyOne imports."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from PIL import Image

from pipeline.label.formats.base import ExportContext, LabelFormat, OutputObject, ReadObject, compact_json
from pipeline.label.formats.json_merge import merge_json_lists
from pipeline.label.formats.naming import file_name, unique_class_names
from pipeline.label.formats.png_encoding import encode_png, label_array
from pipeline.label.mask import Box, Label

_MASKS = "fields/pseudo_mask"
"""FiftyOne takes the paths in a field as relative if ``fields`` has a folder of its name."""


class FiftyOneFormat(LabelFormat):
    """``fiftyone``: a ``fiftyone.types.FiftyOneDataset``, of the kind that does not depend on the database of FiftyOne.

    Samples have ``pseudo_mask``, a ``Segmentation`` on disk with 0 background, 1 object, 255 ignore, as a gray PNG,
    since FiftyOne takes the colors of an indexed one; ``pseudo_label``, a ``Classification`` with the probability as
    confidence; ``pseudo_boxes``, ``Detections``, one for each component; ``key``, ``row`` and ``status``. FiftyOne
    looks for images in ``fiftyone/data``, by their path in the shard: unpack or link them there.
    """

    names_files_by_key = True

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        samples = []
        for label in labels:
            if label.mask_rle is None or label.class_id is None:
                continue
            mask_path = f"{_MASKS}/{file_name(label.sample['key'])}.png"
            yield f"fiftyone/{mask_path}", encode_png(Image.fromarray(label_array(label)))
            class_name = unique_class_names([label.class_id], context)[label.class_id]
            samples.append(_sample(label, mask_path, class_name))
        yield f"fiftyone/shards/{shard}.json", compact_json({"samples": samples})

    def merge(self, shards: Sequence[str], read: ReadObject, context: ExportContext) -> Iterator[OutputObject]:
        parts = (json.loads(read(f"fiftyone/shards/{shard}.json")) for shard in shards)
        yield "fiftyone/samples.json", merge_json_lists(parts, ["samples"], dict)
        info = {"policy": context.policy_hash, "mask_targets": {"1": "object", "255": "ignore"}}
        yield "fiftyone/metadata.json", compact_json({"media_type": "image", "info": info})


def _sample(label: Label, mask_path: str, class_name: str) -> dict[str, Any]:
    sample = label.sample
    detections = [_detection(label, box, class_name) for box in label.boxes or ()]
    return {
        "filepath": f"data/{file_name(sample['member'])}",
        "tags": [],
        "metadata": {"_cls": "ImageMetadata", "width": sample["width"], "height": sample["height"]},
        "key": sample["key"],
        "row": sample["row"],
        "status": label.status,
        "pseudo_mask": {"_cls": "Segmentation", "mask_path": mask_path},
        "pseudo_label": {"_cls": "Classification", "label": class_name, "confidence": label.probability},
        "pseudo_boxes": {"_cls": "Detections", "detections": detections},
    }


def _detection(label: Label, box: Box, class_name: str) -> dict[str, Any]:
    """Return a box as x, y, width, height, in fractions of the image."""
    (x0, y0, x1, y1), width, height = box, label.sample["width"], label.sample["height"]
    relative = [x0 / width, y0 / height, (x1 - x0 + 1) / width, (y1 - y0 + 1) / height]
    return {"_cls": "Detection", "label": class_name, "bounding_box": relative}
