"""Prompts for a promptable segmenter such as SAM (Kirillov et al., ICCV 2023), which is not part of this."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.label.formats.base import ExportContext, Read, Written, compact_json
from pipeline.label.formats.png_encoding import OBJECT, label_array
from pipeline.label.mask import Box, Label, Mask

_POINTS = 3
"""Of each kind, at most."""
_AROUND = 0.25
"""Background is looked for as far around a box, as a share of its sides."""


class Sam:
    """``sam/<shard>.json``: for each sample with a mask that is not empty, a prompt for each component of it.

    A prompt has ``box``, x0, y0, x1, y1, ends inclusive; ``point_coords``, x and y each; and ``point_labels``: 1
    where the distance to all that is not the component has a peak, 0 where, around the box, the distance to all that
    is not surely background has one. All in pixels of the original; the largest component comes first.
    """

    names_files_by_key = False
    needs_heatmap = False

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[Written]:
        images = [_image(label) for label in labels if label.mask_rle is not None and label.boxes]
        yield f"sam/{shard}.json", compact_json({"policy": context.policy_hash, "images": images})

    def merge(self, shards: Sequence[str], read: Read, context: ExportContext) -> Iterator[Written]:
        yield from ()


def _image(label: Label) -> dict[str, Any]:
    sample, coded = label.sample, label_array(label)
    return {
        "row": sample["row"],
        "key": sample["key"],
        "image": sample["member"],
        "width": sample["width"],
        "height": sample["height"],
        "label": label.class_id,
        "prompts": [_prompt(component, coded == 0, box) for component, box in _components(coded == OBJECT)],
    }


def _components(mask: Mask) -> Iterator[tuple[Mask, Box]]:
    """8-connected components, each cut out by its box, largest first, as ``Label.boxes`` has them."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for part in np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable") + 1:
        x, y, width, height = (int(side) for side in stats[part, :4])
        yield parts[y : y + height, x : x + width] == part, (x, y, x + width - 1, y + height - 1)


def _prompt(component: Mask, background: Mask, box: Box) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    inside = _peaks(np.pad(component, 1))  # beyond the box, and the picture, is not the component
    wide, high = int(_AROUND * (x1 - x0 + 1)) + 1, int(_AROUND * (y1 - y0 + 1)) + 1
    left, top = max(0, x0 - wide), max(0, y0 - high)
    outside = _peaks(background[top : y1 + high + 1, left : x1 + wide + 1])
    coordinates = [[x + x0 - 1, y + y0 - 1] for x, y in inside] + [[x + left, y + top] for x, y in outside]
    labels = [1] * len(inside) + [0] * len(outside)
    return {"box": [x0, y0, x1, y1], "point_coords": coordinates, "point_labels": labels}


def _peaks(region: Mask) -> list[tuple[int, int]]:
    """Points x, y of a region that are farthest from its rim, each as far from the others as those are from the rim.

    A point less than half as far as the first one is not worth it.

    Args:
        region: bool [height, width], with a rim.
    """
    distance = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squares are whole, so that of points equally far the first one is taken, whatever rounding does.
    squared = np.rint(distance.astype(np.float64) ** 2).astype(np.int64)
    points: list[tuple[int, int]] = []
    least = squared.max() / 4
    while len(points) < _POINTS and squared.max() > least:
        y, x = (int(each) for each in np.unravel_index(int(squared.argmax()), squared.shape))
        points.append((x, y))
        squared[_disc(squared.shape, x, y, int(squared[y, x]))] = 0
    return points


def _disc(shape: tuple[int, ...], x: int, y: int, squared_radius: int) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    within: NDArray[np.bool_] = (rows - y) ** 2 + (columns - x) ** 2 <= squared_radius
    return within
