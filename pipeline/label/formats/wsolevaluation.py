"""Score maps and metadata as wsolevaluation reads them."""

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipeline.image.score_map import score_map, visible_window
from pipeline.label.formats.base import ExportContext, Read, Written
from pipeline.label.formats.naming import file_name
from pipeline.label.mask import Label

_FILES = ("image_ids", "class_labels", "image_sizes", "localization")


class Wsol:
    """``wsol/score_maps/<image id>.npy``, and ``wsol/metadata`` with the files that the evaluator wants of a split.

    An image id is the member's path in the shard, extension included. Every sample with a map has a score map and its
    lines in ``image_ids.txt``, ``class_labels.txt`` and ``image_sizes.txt``; ``localization.txt`` has the boxes of
    its pseudo-mask, both ends inclusive, where it has any. The same of each shard is in ``wsol/shards/<shard>``.

    Score maps are float64 [224, 224], as the evaluator insists: 0.4 MB each.
    """

    names_files_by_key = True
    needs_heatmap = True

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[Written]:
        lines: dict[str, list[str]] = {name: [] for name in _FILES}
        for label in labels:
            if label.heatmap is None:
                continue
            image_id = file_name(label.sample["member"], forbidden=",")
            buffer = io.BytesIO()
            np.save(buffer, score_map(label.heatmap.values, visible_window(label.sample, label.frame)))
            yield f"wsol/score_maps/{image_id}.npy", buffer.getvalue()
            lines["image_ids"].append(image_id)
            lines["class_labels"].append(f"{image_id},{label.class_id}")
            lines["image_sizes"].append(f"{image_id},{label.sample['width']},{label.sample['height']}")
            if label.mask_rle is not None:
                lines["localization"] += [f"{image_id},{x0},{y0},{x1},{y1}" for x0, y0, x1, y1 in label.boxes or ()]
        for name in _FILES:
            yield f"wsol/shards/{shard}/{name}.txt", "".join(f"{line}\n" for line in lines[name]).encode()

    def merge(self, shards: Sequence[str], read: Read, context: ExportContext) -> Iterator[Written]:
        for name in _FILES:
            yield f"wsol/metadata/{name}.txt", b"".join(read(f"wsol/shards/{shard}/{name}.txt") for shard in shards)
