"""Quality of pseudo-masks against true masks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.image.iou import mask_iou
from pipeline.label.formats.png_encoding import IGNORE, OBJECT
from pipeline.label.mask import Label
from pipeline.label.mask_shard import decode_mask, iter_masks
from pipeline.store import ObjectStore
from pipeline.truth import TruthMatcher, TruthSet
from pipeline.truth.truth import Mask
from schemas.errors import UsageError
from schemas.run import Exif


class _Mask(NamedTuple):
    """A pseudo-mask.

    Attributes:
        shard, key: of its sample.
        mask, ignore: bool [height, width], object pixels and ignored pixels.
        orientation: EXIF orientation of the image.
        exif: whether the mask is of the upright image (``apply``) or of the stored one (``ignore``).
    """

    shard: str
    key: str
    mask: Mask
    ignore: Mask
    orientation: int
    exif: Exif


@dataclass(frozen=True)
class MaskScores:
    """Means in % over the images that have a mask and true masks; NaN without images.

    Pixels that the truth ignores are excluded, and so is an image of which it ignores all pixels.

    Attributes:
        images: number of images.
        unlabelled: images with true masks that have no label.
        mean_iou: IoU of the object; ignored pixels are not object. An empty mask has 0.
        precision: share of the labelled pixels that are right, as object or as background.
        precision_without_ignoring: share of all pixels that are right, where ignored ones count as background.
        object_precision: share of the pixels labelled as object that are; 0 for an empty mask.
        coverage: share of all pixels that are labelled.
        ious: IoU by key, in [0, 1].
    """

    images: int
    unlabelled: int
    mean_iou: float
    precision: float
    precision_without_ignoring: float
    object_precision: float
    coverage: float
    ious: dict[str, float] = field(repr=False)


def score_masks(labels: str | Iterable[Label], truth: TruthSet) -> MaskScores:
    """Compare labels with the truth.

    Args:
        labels: a folder or URL written by ``vitatlas label --format png``, or the labels themselves.
        truth: the true masks.

    Raises:
        UsageError: the folder has no masks; a mask differs in size from the image in the truth; a truth matches two
            samples; nothing says whether a mask or a truth is of the stored or of the upright image.
    """
    masks = _read_masks(labels) if isinstance(labels, str) else _label_masks(labels)
    scores: list[tuple[float, ...]] = []
    ious: dict[str, float] = {}
    labelled: set[str] = set()
    matcher = TruthMatcher(truth)
    for shard, key, mask, ignore, orientation, exif in masks:
        image = matcher.match(shard, key)
        if image is None:
            continue
        height, width = mask.shape
        image = image.for_sample({"width": width, "height": height, "orientation": orientation}, exif)
        true_mask = image.mask
        if true_mask is None:
            continue
        labelled.add(image.key)
        counted = true_mask | ~image.ignore
        if not counted.any():
            continue
        scores.append(_score_mask(mask[counted], ignore[counted], true_mask[counted]))
        ious[key] = scores[-1][0]
    iou, precision, precision_of_all, object_precision, coverage = (
        100 * np.mean(scores, axis=0) if scores else np.full(5, np.nan)
    ).tolist()
    unlabelled = sum(truth.by_key[key].mask is not None for key in truth if key not in labelled)
    return MaskScores(len(scores), unlabelled, iou, precision, precision_of_all, object_precision, coverage, ious)


def _score_mask(mask: Mask, ignore: Mask, true_mask: Mask) -> tuple[float, ...]:
    """Return the scores in the order of ``MaskScores``, in [0, 1]."""
    right, labelled = mask == true_mask, ~ignore
    return (
        mask_iou(mask, true_mask, empty=0.0),
        right[labelled].sum() / max(1, labelled.sum()),
        right.mean(),
        (mask & true_mask).sum() / max(1, mask.sum()),
        labelled.mean(),
    )


def _label_masks(labels: Iterable[Label]) -> Iterator[_Mask]:
    """Yield the labels that have a mask."""
    for label in labels:
        mask, ignore, sample = label.mask, label.ignore, label.sample
        if mask is not None:
            ignored = np.zeros_like(mask) if ignore is None else ignore
            yield _Mask(sample["shard"], sample["key"], mask, ignored, sample["orientation"], label.exif)


def _read_masks(folder: str) -> Iterator[_Mask]:
    """Yield the masks in the shards of a folder."""
    objects = ObjectStore(folder)
    shards = [name for name in objects.list("png") if name.endswith(".tar")]
    if not shards:
        raise UsageError(f"{folder}: has no png/*.tar; make some with vitatlas label … --format png --out {folder}")
    for shard in shards:
        for stored in iter_masks(f"{objects.url}/png/{shard}"):
            if stored.png is None:
                continue
            name, record = f"{objects.url}/png/{shard}: {stored.key}", stored.record
            if record.orientation is None or record.exif is None:
                raise UsageError(f"{name}.json: lacks orientation and exif of its image; label again")
            values = decode_mask(stored.png, f"{name}.mask.png")
            yield _Mask(shard, stored.key, values == OBJECT, values == IGNORE, record.orientation, record.exif)
