"""Score maps and metadata for wsolevaluation."""

import io
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.image.score_map import SIDE, score_map, visible_window
from pipeline.label.formats.base import ExportContext, LabelFormat, OutputObject, ReadObject
from pipeline.label.formats.naming import file_name
from pipeline.label.mask import Box, Label

_NO_BOX: Box = (0, 0, 0, 0)
_FILES = ("image_ids", "class_labels", "image_sizes", "localization")


class WsolEvaluationFormat(LabelFormat):
    """``wsol/score_maps/<image id>.npy``, and the metadata files of a split in ``wsol/metadata``.

    An image id is the path of the member in the shard, with its extension. Every sample with maps has a score map and
    lines in all four files, since the evaluator requires both of each image. The map is 0 everywhere if the maps of the
    sample are constant or were not finite, as the evaluator's own normalization has it. Of a mask that was not
    made of maps it is the share of each cell that is object. ``localization.txt`` has the
    boxes of the pseudo-mask, both ends inclusive. Where there are none, because the mask is empty or the policy left it
    out, it has the box that the evaluator gives a map without foreground: 0, 0, 0, 0. ``wsol/shards/<shard>`` has the
    metadata of one shard.

    Score maps are float64 [224, 224], which the evaluator requires: 0.4 MB each.
    """

    names_files_by_key = True
    needs_heatmap = True

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        lines: dict[str, list[str]] = {name: [] for name in _FILES}
        for label in labels:
            if label.class_id is None:
                continue
            image_id = file_name(label.sample["member"], forbidden=",")
            buffer = io.BytesIO()
            np.save(buffer, _score_map(label))
            yield f"wsol/score_maps/{image_id}.npy", buffer.getvalue()
            lines["image_ids"].append(image_id)
            lines["class_labels"].append(f"{image_id},{label.class_id}")
            lines["image_sizes"].append(f"{image_id},{label.sample['width']},{label.sample['height']}")
            boxes = (label.mask_rle is not None and label.boxes) or [_NO_BOX]
            lines["localization"] += [f"{image_id},{x0},{y0},{x1},{y1}" for x0, y0, x1, y1 in boxes]
        for name in _FILES:
            yield f"wsol/shards/{shard}/{name}.txt", "".join(f"{line}\n" for line in lines[name]).encode()

    def merge(self, shards: Sequence[str], read: ReadObject, context: ExportContext) -> Iterator[OutputObject]:
        for name in _FILES:
            yield f"wsol/metadata/{name}.txt", b"".join(read(f"wsol/shards/{shard}/{name}.txt") for shard in shards)


def _score_map(label: Label) -> NDArray[np.float64]:
    """Return float64 [224, 224] in [0, 1]."""
    if label.heatmap is not None:
        is_in_image = label.heatmap.seen is not None
        window = (0.0, 0.0, 1.0, 1.0) if is_in_image else visible_window(label.sample, label.input_size)
        return score_map(label.heatmap.values, window)
    mask = label.mask
    if mask is None:
        return np.zeros((SIDE, SIDE))
    return np.clip(cv2.resize(mask.astype(np.float64), (SIDE, SIDE), interpolation=cv2.INTER_AREA), 0, 1)
