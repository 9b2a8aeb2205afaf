"""A map and a policy make a mask in original pixels."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.policy import Cut, Policy

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Label:
    """A labelled sample.

    Attributes:
        sample: its row of the sample table.
        status: ``ok``, ``empty``, or the sample's own where it has no map.
        class_index: the class that the mask is of.
        mask: bool [height, width] of the original picture, or None without a map.
        threshold: that was used, on the normalised map.
        boxes: of each component, largest first: x0, y0, x1, y1, inclusive.
    """

    sample: dict[str, Any]
    status: str
    class_index: int | None = None
    mask: Mask | None = None
    threshold: float | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()

    @property
    def area(self) -> float | None:
        """Fraction of the picture that is foreground."""
        return None if self.mask is None else float(self.mask.mean())


def make(
    values: NDArray[np.floating],
    bounds: NDArray[np.floating],
    sample: dict[str, Any],
    frame: tuple[int, int],
    policy: Policy,
) -> Label:
    """Label one sample.

    Args:
        values: float [h, w] in [0, 1], the stored map; bounds: [2], minimum and maximum of the raw one.
        sample: its row of the sample table.
        frame: height and width of the network's input, in pixels.
    """
    if sample["status"] != "ok":
        return Label(sample, sample["status"])
    picture = enlarge(_normalise(values, bounds, policy), sample, frame)
    threshold = _threshold(picture, policy.cut)
    mask, boxes = _components(picture > threshold, policy)
    of = sample["label"] if policy.target == "label" else sample["prediction"]
    return Label(sample, "ok" if boxes else "empty", of, mask, threshold, boxes)


def enlarge(values: NDArray[np.floating], sample: dict[str, Any], frame: tuple[int, int]) -> NDArray[np.float32]:
    """A map on the patch grid, resized linearly to where it lies in the original picture.

    Args:
        values: float [h, w].
        sample: with width, height, scale and offset.
        frame: height and width of the network's input.

    Returns:
        float32 [height, width] of the original; 0 where the network saw nothing.
    """
    rows = _linear(sample["height"], values.shape[0], frame[0], sample["scale_y"], sample["offset_y"])
    columns = _linear(sample["width"], values.shape[1], frame[1], sample["scale_x"], sample["offset_x"])
    return rows @ values.astype(np.float32) @ columns.T


@lru_cache(maxsize=256)
def _linear(length: int, cells: int, frame: int, scale: float, offset: float) -> NDArray[np.float32]:
    """Linear interpolation from cells to pixels along one axis, as a matrix [length, cells]."""
    at = (np.arange(length) + 0.5 - offset) / scale  # pixel centres, in the network's input
    seen = (at >= 0) & (at <= frame)
    place = np.clip(at / frame * cells - 0.5, 0, cells - 1)
    low = np.minimum(place.astype(np.int64), max(0, cells - 2))
    part = place - low
    weights = np.zeros((length, cells), np.float32)
    pixels = np.arange(length)
    weights[pixels, low] = 1 - part
    weights[pixels, np.minimum(low + 1, cells - 1)] += part
    return weights * seen[:, None].astype(np.float32)


def _normalise(values: NDArray[np.floating], bounds: NDArray[np.floating], policy: Policy) -> NDArray[np.floating]:
    if policy.normalise == "minmax":
        return values
    low, high = bounds
    positive = np.clip(low + (high - low) * values, 0, None)
    return positive / positive.max() if positive.max() > 0 else np.zeros_like(values)


def _threshold(picture: NDArray[np.float32], cut: Cut) -> float:
    if cut.kind == "otsu":
        grey = np.clip(picture * 255, 0, 255).astype(np.uint8)
        # Foreground is above the last grey level of the background, so above where the next one begins.
        return (cv2.threshold(grey, 0, 1, cv2.THRESH_OTSU)[0] + 1) / 255
    assert cut.at is not None
    return float(np.percentile(picture, cut.at)) if cut.kind == "percentile" else cut.at


def _components(mask: Mask, policy: Policy) -> tuple[Mask, tuple[tuple[int, int, int, int], ...]]:
    """What the policy keeps of a mask, and the box of each component of it."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    order = [int(part) for part in np.argsort(-areas[1:], kind="stable") + 1]
    kept = [part for part in order if areas[part] >= policy.min_area * mask.size]
    if policy.keep == "largest":
        kept = kept[:1]
    boxes = tuple((int(x), int(y), int(x + width - 1), int(y + height - 1)) for x, y, width, height in stats[kept, :4])
    return np.isin(parts, kept), boxes
