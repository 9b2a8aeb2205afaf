"""Prompts for a promptable segmenter such as SAM (Kirillov et al., ICCV 2023), from masks."""

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.label.formats.base import ExportContext, LabelFormat, OutputObject, compact_json
from pipeline.label.formats.png_encoding import OBJECT, label_array
from pipeline.label.mask import Box, Label, Mask

Prompt = dict[str, Any]
"""``box``, ``point_coords`` and ``point_labels``, as in ``SamFormat``."""
_MAX_POINTS = 3
"""Largest number of points of each kind."""
_MARGIN = 0.25
"""Background points lie at most so far outside a box, as a fraction of its sides."""


class SamFormat(LabelFormat):
    """``sam/<shard>.json``: for each sample with a mask that is not empty, a prompt for each component of the mask.

    A prompt has ``box``: x0, y0, x1, y1, ends inclusive; ``point_coords``: x and y of each point; and ``point_labels``.
    Label 1 is a peak of the distance to all that is not the component. Label 0 is a peak, around the box, of the
    distance to all that is not surely background. All are in pixels of the original image, the largest component first.
    """

    needs_class = False

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        images = [_image(label) for label in labels if label.mask_rle is not None and label.boxes]
        yield f"sam/{shard}.json", compact_json({"policy": context.policy_hash, "images": images})


def make_prompts(label: Label) -> list[Prompt]:
    """Return a prompt for each component of the mask of a label, the largest first; see ``SamFormat``."""
    values = label_array(label)
    return [_prompt(component, values == 0, box) for component, box in _components(values == OBJECT)]


def _image(label: Label) -> dict[str, Any]:
    sample = label.sample
    return {
        "row": sample["row"],
        "key": sample["key"],
        "image": sample["member"],
        "width": sample["width"],
        "height": sample["height"],
        "label": label.class_id,
        "prompts": make_prompts(label),
    }


def _components(mask: Mask) -> Iterator[tuple[Mask, Box]]:
    """Yield the 8-connected components, each cropped to its box, largest first, as in ``Label.boxes``."""
    _, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for component in np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable") + 1:
        x, y, width, height = (int(side) for side in stats[component, :4])
        crop = components[y : y + height, x : x + width]
        yield crop == component, (x, y, x + width - 1, y + height - 1)


def _prompt(component: Mask, background: Mask, box: Box) -> Prompt:
    x0, y0, x1, y1 = box
    inside = _peaks(np.pad(component, 1))  # what lies outside the box, or the image, is not the component
    x_margin, y_margin = int(_MARGIN * (x1 - x0 + 1)) + 1, int(_MARGIN * (y1 - y0 + 1)) + 1
    left, top = max(0, x0 - x_margin), max(0, y0 - y_margin)
    outside = _peaks(background[top : y1 + y_margin + 1, left : x1 + x_margin + 1])
    coordinates = [[x + x0 - 1, y + y0 - 1] for x, y in inside] + [[x + left, y + top] for x, y in outside]
    labels = [1] * len(inside) + [0] * len(outside)
    return {"box": [x0, y0, x1, y1], "point_coords": coordinates, "point_labels": labels}


def _peaks(region: Mask) -> list[tuple[int, int]]:
    """Return the points x, y of a region that are farthest from its rim, and as far from each other.

    Points less than half as far from the rim as the first one are left out.

    Args:
        region: bool [height, width], with a rim.
    """
    distance = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances are whole numbers, so the first of equally far points is taken, whatever the rounding.
    squared = np.rint(distance.astype(np.float64) ** 2).astype(np.int64)
    points: list[tuple[int, int]] = []
    smallest = squared.max() / 4
    while len(points) < _MAX_POINTS and squared.max() > smallest:
        y, x = (int(index) for index in np.unravel_index(int(squared.argmax()), squared.shape))
        points.append((x, y))
        squared[_disc(squared.shape, x, y, int(squared[y, x]))] = 0
    return points


def _disc(shape: tuple[int, ...], x: int, y: int, squared_radius: int) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    within: NDArray[np.bool_] = (rows - y) ** 2 + (columns - x) ** 2 <= squared_radius
    return within
