"""Reader of COCO results: what a detector or segmenter has predicted, a JSON list of masks or boxes with scores.

Source: cocodataset.org/#format-results.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.read.decode import MAX_PIXELS
from pipeline.read.sample_keys import sample_key
from pipeline.truth.coco import CocoTruth, refuse_mixed_categories
from pipeline.truth.mask_folder import tight_boxes
from pipeline.truth.truth import Boxes, Mask, Truth
from pipeline.truth.truth_set import RENAME, TruthSet
from pipeline.utils.local_file import read_bytes
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import KeySeparator

Result = Mapping[str, Any]


@dataclass(frozen=True)
class ImageResults:
    """The results of one image.

    Attributes:
        key: of the image.
        width, height: of the image in pixels; None if no file gives them.
        results: as in the file, in its order, each with its place there as ``id``.
    """

    key: str
    width: int | None
    height: int | None
    results: tuple[Result, ...]


@dataclass(frozen=True)
class CocoResults:
    """A file of results.

    Attributes:
        path: of the file.
        digest: SHA-256 of its bytes, and of those of the file with the images, as ``sha256:…``.
        images: those that have a result.
    """

    path: Path
    digest: str
    images: tuple[ImageResults, ...]


def is_results(path: Path) -> bool:
    """Return whether a file is a JSON list, judged by its first character: instance files are mappings."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def parse_results(path: Path, images: Path | None = None, separator: KeySeparator = "first-dot") -> CocoResults:
    """Read a file of results.

    Args:
        path: the file.
        images: COCO file of instances whose ``images`` have the ids of the results. Without it, an ``image_id`` must be
            the name of a file or a key.
        separator: dot of a file name that ends the key of its image.

    Raises:
        UsageError: it is not such a file; an id is a number and no images are given, or belongs to none of them; two
            images have one key.
    """
    data = read_bytes(path)
    results = parse_list(data, path)
    known, digest = {}, sha256(data)
    if images is not None:
        content = read_bytes(images)
        known, digest = _parse_images(content, images), sha256(f"{digest} {sha256(content)}".encode())
    by_image: dict[int | str, list[Result]] = {}
    for place, result in enumerate(results):
        by_image.setdefault(result["image_id"], []).append({**result, "id": place})
    found: dict[str, ImageResults] = {}
    for image_id, group in by_image.items():
        key, width, height = _find_image(image_id, known, path, images, separator)
        if key in found:
            raise UsageError(f"{path}: two images have the key {key}; {RENAME}")
        found[key] = ImageResults(key, width, height, tuple(group))
    return CocoResults(path, digest, tuple(found.values()))


def parse_list(data: bytes, path: Path) -> list[dict[str, Any]]:
    """Return the results in a file, each with the ``image_id`` that it is of.

    Args:
        data: content of the file.
        path: of the file, for errors.

    Raises:
        UsageError: it is not a list of results, or a result has no ``image_id``.
    """
    try:
        results = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not a COCO file of results ({error})") from None
    if not isinstance(results, list):
        raise UsageError(f"{path}: is not a list of results of COCO; of instances, name only the results")
    for place, result in enumerate(results):
        image_id = result.get("image_id") if isinstance(result, dict) else None
        if not isinstance(image_id, int | str) or isinstance(image_id, bool):
            raise UsageError(f"{path}: result {place} has no image_id; write one, as COCO has it")
    return results


def rle_size(result: Result, where: str) -> tuple[int, int]:
    """Return height and width of the run lengths of a result, in pixels.

    Raises:
        UsageError: they have none, or one that no image has.
    """
    size = result["segmentation"].get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise UsageError(f"{where}: has run lengths without a size; write [height, width]")
    if size[0] * size[1] > MAX_PIXELS:
        raise UsageError(f"{where}: its mask has {size[1]}×{size[0]} pixels, more than {MAX_PIXELS:,}; correct it")
    return size[0], size[1]


def parse_score(result: Result, where: str) -> float | None:
    """Return the score of a result; None if it has none.

    Args:
        result: of the file.
        where: names the result in an error.

    Raises:
        UsageError: it is not a finite number.
    """
    score = result.get("score")
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= sys.float_info.max:
        raise UsageError(f"{where}: its score {score!r:.60} is not a finite number; correct it")
    return float(score)


def _parse_images(data: bytes, path: Path) -> dict[int | str, tuple[str, int, int]]:
    """Return file name, width and height of each image by its id."""
    try:
        images = json.loads(data)["images"]
        known = {image["id"]: (str(image["file_name"]), int(image["width"]), int(image["height"])) for image in images}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: is not a COCO file with images ({type(error).__name__}: {error})") from None
    if len(known) < len(images):
        raise UsageError(f"{path}: two images have one id; give each its own")
    return known


def _find_image(
    image_id: int | str,
    known: Mapping[int | str, tuple[str, int, int]],
    path: Path,
    images: Path | None,
    separator: KeySeparator,
) -> tuple[str, int | None, int | None]:
    """Return key, width and height of the image with an id."""
    if image_id in known:
        name, width, height = known[image_id]
        return sample_key(name, separator), width, height
    if images is not None:
        raise UsageError(f"{path}: image {image_id!r:.60} is not in {images}; name the file that the ids are of")
    if isinstance(image_id, int):
        raise UsageError(
            f"{path}: image {image_id} is a number, which says nothing of its key; name the COCO file that has these "
            "ids by --images FILE"
        )
    return sample_key(image_id, separator), None, None


def masks_of_results(results: CocoResults, min_score: float | None = None) -> TruthSet:
    """Return the masks of results: of each image the union of its results.

    An image none of whose results counts has an empty mask.

    Args:
        results: the file.
        min_score: results with a lower score do not count. None: all count, if their scores are equal or missing.

    Raises:
        UsageError: a score is not a finite number; scores differ and no least score is given; results have no masks;
            those of one image are of several categories.
    """
    scores = {_parse_score(results.path, result) for image in results.images for result in image.results}
    if min_score is None and len(scores) > 1:
        raise UsageError(
            f"{results.path}: its results have different scores; say from which one on they are a mask by --min-score X"
        )
    truths = [_make_masks(results.path, image, min_score) for image in results.images]
    digest = results.digest if min_score is None else sha256(f"{results.digest} {min_score}".encode())
    return TruthSet.from_truths(results.path, digest, truths)


def _make_masks(path: Path, image: ImageResults, min_score: float | None) -> "ResultMasks":
    counted = tuple(result for result in image.results if _counts(path, result, min_score))
    for result in counted:
        if not result.get("segmentation"):
            raise UsageError(f"{path}: result {result['id']}, of {image.key}, has no segmentation; masks are needed")
    refuse_mixed_categories(path, image.key, counted)
    size = None if image.width is None else (image.height, image.width)
    for result in counted:
        if isinstance(result["segmentation"], dict):
            own = rle_size(result, f"{path}: result {result['id']}")
            if own != (size := size or own):
                fault = f"is {own[1]}×{own[0]} pixels, not {size[1]}×{size[0]} as its image"
                raise UsageError(f"{path}: result {result['id']}, of {image.key}, {fault}; resize it")
    height, width = size or (None, None)
    return ResultMasks(image.key, width, height, counted)


def _counts(path: Path, result: Result, min_score: float | None) -> bool:
    """Return whether a result is a part of the mask of its image."""
    if min_score is None:
        return True
    if (score := _parse_score(path, result)) is None:
        raise UsageError(f"{path}: result {result['id']} has no score; write one, or leave out --min-score")
    return score >= min_score


def _parse_score(path: Path, result: Result) -> float | None:
    return parse_score(result, f"{path}: result {result['id']}")


@dataclass(frozen=True, eq=False)
class ResultMasks(CocoTruth):
    """The masks that were predicted for one image. They may be empty."""

    @property
    def mask(self) -> Mask:
        return self._merge_masks(self.annotations)

    @property
    def boxes(self) -> Boxes:
        masks = [self._merge_masks([result]) for result in self.annotations]
        boxes = [tight_boxes(mask.astype(np.int32)) for mask in masks]
        return np.concatenate([np.zeros((0, 4), np.int64), *boxes])

    @property
    def ignore(self) -> Mask:
        return self._merge_masks([])

    @property
    def is_annotated(self) -> bool:
        return True

    def with_size(self, width: int, height: int) -> Truth:
        super().with_size(width, height)
        return self if self.width is not None else replace(self, width=width, height=height)
