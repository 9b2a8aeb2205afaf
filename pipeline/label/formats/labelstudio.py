"""Masks as predictions that Label Studio imports."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from pipeline.label.formats.base import ExportContext, LabelFormat, OutputObject, ReadObject, compact_json
from pipeline.label.formats.labelstudio_rle import encode_brush_rle
from pipeline.label.formats.naming import unique_class_names
from pipeline.label.mask import Label, Mask

_IGNORED = "ignore"


class LabelStudioFormat(LabelFormat):
    """``labelstudio/shards/<shard>.json``: a task with a prediction for each sample with a mask.

    The prediction has a brush region of the class, and one of the label ``ignore``, where these are not empty. Its
    score is the probability of the class. The image of a task is the path of the member in the shard: put the address
    where your images are served in front of it. ``labelstudio/config.xml`` is the labeling interface for all shards.
    """

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        tasks = []
        names: dict[int, str] = {}
        for label in labels:
            if label.mask_rle is not None and label.class_id is not None:
                names |= unique_class_names([label.class_id], context, [_IGNORED])
                tasks.append(_task(label, names[label.class_id], context))
        yield f"labelstudio/shards/{shard}.json", compact_json(tasks)
        yield f"labelstudio/shards/{shard}.xml", _config(names[class_id] for class_id in sorted(names))

    def merge(self, shards: Sequence[str], read: ReadObject, context: ExportContext) -> Iterator[OutputObject]:
        names: dict[str, None] = {}
        for shard in shards:
            config = ElementTree.fromstring(read(f"labelstudio/shards/{shard}.xml"))
            names |= dict.fromkeys(element.attrib["value"] for element in config.iter("Label"))
        names.pop(_IGNORED, None)
        yield "labelstudio/config.xml", _config(names)


def _task(label: Label, class_name: str, context: ExportContext) -> dict[str, Any]:
    regions = {"mask": (label.mask, class_name), "ignore": (label.ignore, _IGNORED)}
    return {
        "data": {"image": label.sample["member"], "key": label.sample["key"], "row": label.sample["row"]},
        "predictions": [
            {
                "model_version": context.policy_hash,
                "score": label.probability,
                "result": [
                    _region(f"{label.sample['row']}-{kind}", mask, name)
                    for kind, (mask, name) in regions.items()
                    if mask is not None and mask.any()
                ],
            }
        ],
    }


def _region(region_id: str, mask: Mask, name: str) -> dict[str, Any]:
    return {
        "id": region_id,
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush_rle(mask), "brushlabels": [name]},
    }


def _config(names: Iterable[str]) -> bytes:
    """Return the labeling interface with these labels."""
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in [*names, _IGNORED])
    return (
        f'<View>\n  <Image name="image" value="$image"/>\n  <BrushLabels name="label" toName="image">\n{labels}'
        "  </BrushLabels>\n</View>\n"
    ).encode()
