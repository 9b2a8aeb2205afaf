"""The reference evaluator, written from its protocol over files, without any code of the pipeline.

Choe et al. (CVPR 2020). It reads ``<image id>.npy`` below a folder of score maps and the lists of a metadata folder,
and fails with ``KeyError`` or ``FileNotFoundError`` where one of them lacks an image.
"""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

SIDE = 224
IOUS = (0.3, 0.5, 0.7)


class Scores(NamedTuple):
    maxboxacc: float
    maxboxacc_v2: float
    pxap: float


def evaluate(score_maps: Path, metadata: Path, masks: dict[str, np.ndarray], step: float = 0.001) -> Scores:
    """Evaluate the score maps of all images in ``image_ids.txt``; masks are bool [height, width] by image id."""
    thresholds = np.arange(0, 1, step)
    ids = (metadata / "image_ids.txt").read_text().split("\n")
    ids = [image_id for image_id in ids if image_id]
    sizes = {name: tuple(map(int, values)) for name, *values in _lines(metadata / "image_sizes.txt")}
    true_boxes = defaultdict(list)
    for name, *values in _lines(metadata / "localization.txt"):
        true_boxes[name].append(_resize(tuple(map(int, values)), sizes[name]))
    largest, all_contours = np.zeros(len(thresholds)), np.zeros((len(IOUS), len(thresholds)))
    edges = np.append(thresholds, [1.0, 2.0, 3.0])
    inside, outside = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for image_id in ids:
        scores = np.load(score_maps / f"{image_id}.npy")
        _check(scores)
        boxes = dict(true_boxes)[image_id]
        by_cut: dict[int, tuple[float, float]] = {}
        gray = (scores * 255).astype(np.uint8)
        for index, threshold in enumerate(thresholds):
            cut = int(threshold * gray.max())
            if cut not in by_cut:
                by_cut[cut] = _best_ious(gray, cut, boxes)
            first, best = by_cut[cut]
            largest[index] += first >= 0.5
            all_contours[:, index] += [best >= iou for iou in IOUS]
        mask = cv2.resize(masks[image_id].astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0.5
        inside += np.histogram(scores[mask], edges)[0]
        outside += np.histogram(scores[~mask], edges)[0]
    return Scores(
        100 * largest.max() / len(ids),
        100 * all_contours.max(axis=1).mean() / len(ids),
        _average_precision(inside, outside),
    )


def _lines(file: Path) -> list[list[str]]:
    return [line.split(",") for line in file.read_text().split("\n") if line]


def _check(scores: np.ndarray) -> None:
    assert scores.dtype == np.float64
    assert scores.shape == (SIDE, SIDE)
    assert not np.isnan(scores).any()
    assert scores.min() >= 0
    assert scores.max() <= 1


def _resize(box: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    (x0, y0, x1, y1), (width, height) = box, size
    return int(x0 * SIDE / width), int(y0 * SIDE / height), int(x1 * SIDE / width), int(y1 * SIDE / height)


def _best_ious(gray: np.ndarray, cut: int, true_boxes: list[tuple[int, ...]]) -> tuple[float, float]:
    """Of the largest contour, and of any contour."""
    foreground = np.where(gray > cut, 255, 0).astype(np.uint8)
    contours = cv2.findContours(foreground, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not contours:
        best = max(_iou((0, 0, 0, 0), box) for box in true_boxes)
        return best, best
    ious = []
    for contour in contours:
        x, y, width, height = cv2.boundingRect(contour)
        found = x, y, min(x + width, SIDE - 1), min(y + height, SIDE - 1)
        ious.append(max(_iou(found, box) for box in true_boxes))
    areas = [cv2.contourArea(contour) for contour in contours]
    return ious[areas.index(max(areas))], max(ious)


def _iou(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    def area(x0: int, y0: int, x1: int, y1: int) -> int:
        return max(0, x1 - x0 + 1) * max(0, y1 - y0 + 1)

    corners = zip(first[:2], second[:2], strict=True), zip(first[2:], second[2:], strict=True)
    intersection = area(*map(max, corners[0]), *map(min, corners[1]))
    return intersection / (area(*first) + area(*second) - intersection)


def _average_precision(inside: np.ndarray, outside: np.ndarray) -> float:
    hits, misses = inside[::-1].cumsum(), outside[::-1].cumsum()
    some = hits + misses > 0
    precision, recall = hits[some] / (hits + misses)[some], hits[some] / inside.sum()
    return float(100 * (precision[1:] * np.diff(recall)).sum() + 100 * precision[0] * recall[0])
