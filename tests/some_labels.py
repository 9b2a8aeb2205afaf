"""Labels of every kind that a format may meet, and what to compare of them."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from pipeline.label.formats.base import ExportContext, LabelFormat
from pipeline.label.mask import Heatmap, Label

CONTEXT = ExportContext("sha256:policy")
CLASSES = tuple(f"class {index}" for index in range(999))
NAMED = ExportContext("sha256:policy", CLASSES)
FRAME = (32, 32)


def coded(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths of bool [height, width]."""
    return rle.encode(np.asfortranarray(mask, np.uint8))


def label_of(row: int, key: str, mask: np.ndarray, ignore: np.ndarray | None = None, class_id: int = 3) -> Label:
    """A label with this mask."""
    height, width = mask.shape
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    parts = sorted((part for part in stats[1:].tolist()), key=lambda part: -part[4])
    ignore = np.zeros_like(mask) if ignore is None else ignore
    return Label(
        sample={
            "row": row, "key": key, "member": f"{key}.jpg", "status": "ok", "label": class_id, "prediction": 5,
            "width": width, "height": height, "scale_x": width / 32, "scale_y": height / 32, "offset_x": 0.0,
            "offset_y": 0.0, "orientation": 1, "image_sha256": "00",
        },
        status="ok" if mask.any() else "empty",
        class_id=class_id,
        heatmap=Heatmap(np.random.default_rng(row).random((4, 4), np.float32), agreement=0.75),
        agreement=0.75,
        input_size=FRAME,
        mask_rle=coded(mask),
        ignore_rle=coded(ignore),
        threshold=0.5,
        background=0.25,
        area=float(mask.mean()),
        ignored=float(ignore.mean()),
        boxes=tuple((x, y, x + w - 1, y + h - 1) for x, y, w, h, _ in parts),
        probability=0.875,
    )  # fmt: skip


def shape(*blocks: tuple[int, int, int, int], size: tuple[int, int] = (30, 40)) -> np.ndarray:
    """Bool [height, width] of blocks x0, y0, x1, y1, ends inclusive."""
    mask = np.zeros(size, bool)
    for x0, y0, x1, y1 in blocks:
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


def without_map(row: int, key: str, status: str) -> Label:
    """A sample that nothing could be made of."""
    sample = dict.fromkeys(("label", "prediction", "width", "height", "orientation", "member"))
    return Label(sample | {"row": row, "key": key, "status": status}, status)


def without_signal(row: int, key: str) -> Label:
    """A sample whose maps are constant."""
    sample = label_of(row, key, shape()).sample
    return Label(sample, "no_signal", class_id=sample["label"])


def labels() -> dict[str, list[Label]]:
    """Of two shards, by shard."""
    ring = shape((5, 5, 24, 20)) & ~shape((10, 9, 14, 12))
    band = shape((2, 2, 27, 23)) & ~shape((5, 5, 24, 20))
    two = shape((1, 1, 4, 6), (20, 10, 33, 28), size=(31, 37))
    filtered = replace(label_of(4, "filtered", two), status="low_probability", mask_rle=None, ignore_rle=None)
    return {
        "first": [
            label_of(0, "ring", ring, band),
            label_of(1, "folder/two", two, class_id=300),
            without_map(2, "broken", "undecodable"),
            label_of(3, "nothing", shape(), shape((0, 0, 9, 9)), class_id=7),
            filtered,
            without_map(5, "../../evil", "unsafe_key"),
            without_map(6, "ring", "duplicate_key"),
            without_signal(7, "dark"),
        ],
        "second": [
            label_of(16, "./größe/bild 1", shape((0, 0, 39, 29)), class_id=998),
            label_of(17, "corner", shape((39, 29, 39, 29)), shape((0, 0, 38, 29)), class_id=0),
        ],
    }


LABELS = labels()
MASKED = [each for part in LABELS.values() for each in part if each.mask_rle is not None]


def written(exporter: LabelFormat, context: ExportContext = CONTEXT) -> dict[str, bytes]:
    """All objects of both shards, merged ones too."""
    objects: dict[str, bytes] = {}
    for shard, part in LABELS.items():
        for name, data in exporter.export(shard, iter(part), context):
            assert name not in objects, name
            objects[name] = data
    for name, data in exporter.merge(list(LABELS), objects.__getitem__, context):
        assert name not in objects, name
        objects[name] = data
    return objects


def box(mask: np.ndarray) -> list[int] | None:
    """Of all that is in a mask: x, y, width, height."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return [int(side) for side in (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)]
