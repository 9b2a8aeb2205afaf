"""Results of detectors in the format of COCO: a list of boxes or of masks (run lengths), each with its score.

Categories do not matter: what is scored is where the object of an image is. Boxes with masks count as masks.
Source: cocodataset.org/#format-results.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.read.sample_keys import sample_key
from pipeline.score.sources.box_table import Box, BoxFile, best_box
from pipeline.score.sources.file_source import FileSource
from pipeline.score.sources.source import Prediction, ScoreSource, SourceImage
from pipeline.truth import TruthSet
from pipeline.truth.box_truth import inclusive_box, refuse_fractions
from pipeline.truth.coco_results import parse_list, parse_score, rle_size
from pipeline.truth.rle import decode
from pipeline.truth.truth_faults import refuse_corners
from pipeline.utils.local_file import read_bytes
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import KeySeparator

ScoredMask = tuple[Mapping[str, Any], float | None]
"""Run lengths, all of the same size for an image, and a score."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskResults(FileSource[tuple[ScoredMask, ...]]):
    """Masks of each image. A pixel has the score of the best mask that covers it, and 0 outside of all."""

    def images(self, shard: str) -> Sequence[SourceImage]:
        sizes = {key: masks[0][0]["size"] for key, masks in self.parts[shard].items()}
        return [SourceImage(key, size=(width, height)) for key, (height, width) in sizes.items()]

    def read(self, entry: tuple[ScoredMask, ...]) -> Prediction:
        masks = [self._decode(runs) for runs, _ in entry]
        scores = [score for _, score in entry if score is not None]
        if len(set(scores)) < 2:
            union: Prediction = np.logical_or.reduce(masks)
            return union
        best: Prediction = np.max([mask * score for mask, score in zip(masks, scores, strict=True)], axis=0)
        return best

    def _decode(self, runs: Mapping[str, Any]) -> Prediction:
        try:
            height, width = runs["size"]
            return decode(runs, width, height)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise UsageError(f"{self.url}: mask {str(runs)[:60]} cannot be used ({error}); correct it") from None


def open_results(path: Path, name: str, truth: TruthSet, separator: KeySeparator = "first-dot") -> ScoreSource:
    """Read a file of results.

    Args:
        path: of the file.
        name: of the source in tables.
        truth: whose ids the results name images by; ids that are text may be names of images instead.
        separator: dot of a file name that ends the key of its image.

    Raises:
        UsageError: it is not such a list; an image is not known by its id; some results have masks and others none; a
            box, a score or the size of a mask cannot be used; all boxes are x0, y0, x1, y1.
    """
    data = read_bytes(path)
    results = parse_list(data, path)
    with_masks = [result.get("segmentation") is not None for result in results]
    if 0 < sum(with_masks) < len(with_masks):
        raise UsageError(f"{path}: {sum(with_masks)} of {len(results)} results have a mask; write one kind")
    by_key: dict[str, list[tuple[dict[str, Any], float | None]]] = {}
    for place, result in enumerate(results):
        where = f"{path}: result {place}"
        key = _find_key(result["image_id"], truth, separator, where)
        by_key.setdefault(key, []).append((result, parse_score(result, where)))
    if any(with_masks):
        masks = {key: _scored_masks(group, f"{path}: {key}") for key, group in by_key.items()}
        return MaskResults.of_entries(str(path), name, masks, sha256(data))
    boxes = {
        key: [(_parse_box(result, f"{path}: {key}"), score) for result, score in group] for key, group in by_key.items()
    }
    numbers = np.array([box for group in boxes.values() for box, _ in group], np.float64).reshape(-1, 4)
    refuse_fractions(numbers, lambda index: f"{path}: box {index + 1}")
    sizes = {key: found.size for key in by_key if (found := truth.find(key)) is not None and found.size is not None}
    rows = [(*result["bbox"], *size) for key, size in sizes.items() for result, _ in by_key[key]]
    known = np.array(rows, np.float64).reshape(-1, 6)
    refuse_corners(known[:, :4], known[:, 4:], path)
    best = {key: best_box(group, f"{path}: {key}") for key, group in boxes.items()}
    return BoxFile.of_entries(str(path), name, best, sha256(data))


def _find_key(image_id: int | str, truth: TruthSet, separator: KeySeparator, where: str) -> str:
    if image_id in truth.keys_by_id:
        return truth.keys_by_id[image_id]
    if isinstance(image_id, str) and image_id:
        return sample_key(image_id, separator)
    fix = "use the truth with the ids that it was made from, or write names of images"
    raise UsageError(f"{where}: its image_id {image_id!r:.60} is none of {truth.name}; {fix}")


def _parse_box(result: Mapping[str, Any], where: str) -> Box:
    try:
        x, y, width, height = (float(side) for side in result["bbox"])
        if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
            raise ValueError("it is not x, y, width and height with an area")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{where}: bbox {result.get('bbox')!r:.60} cannot be used ({reason}); correct it") from None
    return inclusive_box(x, y, width, height)


def _scored_masks(group: list[tuple[dict[str, Any], float | None]], where: str) -> tuple[ScoredMask, ...]:
    scores = [score for _, score in group if score is not None]
    if scores and (len(scores) < len(group) or min(scores) < 0):
        raise UsageError(f"{where}: has masks without a score, or with one below 0; write scores from 0 up, or none")
    if not all(isinstance(result["segmentation"], dict) for result, _ in group):
        raise UsageError(f"{where}: has a mask that is not in run lengths; write it as {{size, counts}}")
    sizes = {rle_size(result, where) for result, _ in group}
    if len(sizes) > 1:
        height, width = min(sizes)
        raise UsageError(f"{where}: has masks of {len(sizes)} sizes, one of {width}×{height} pixels; correct them")
    return tuple((result["segmentation"], score) for result, score in group)
