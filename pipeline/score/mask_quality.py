"""Quality of pseudo-masks against true masks."""

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from pipeline.image.iou import mask_iou
from pipeline.label.formats.png_encoding import IGNORE, OBJECT
from pipeline.label.mask import Label
from pipeline.store import ObjectStore
from pipeline.truth import TruthMatcher, TruthSet
from pipeline.truth.truth import Mask
from schemas.errors import RunFailedError, UsageError

_SUFFIX = ".mask.png"


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
            samples.
    """
    masks = _read_masks(labels) if isinstance(labels, str) else _label_masks(labels)
    scores: list[tuple[float, ...]] = []
    ious: dict[str, float] = {}
    labelled: set[str] = set()
    matcher = TruthMatcher(truth)
    for shard, key, mask, ignore in masks:
        image = matcher.match(shard, key)
        true_mask = None if image is None else image.with_size(mask.shape[1], mask.shape[0]).mask
        if image is None or true_mask is None:
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


def _label_masks(labels: Iterable[Label]) -> Iterator[tuple[str, str, Mask, Mask]]:
    """Yield shard, key, object pixels and ignored pixels of each label with a mask."""
    for label in labels:
        mask, ignore = label.mask, label.ignore
        if mask is not None:
            yield label.sample["shard"], label.sample["key"], mask, np.zeros_like(mask) if ignore is None else ignore


def _read_masks(folder: str) -> Iterator[tuple[str, str, Mask, Mask]]:
    """Yield shard, key, object pixels and ignored pixels of each mask in the shards of a folder."""
    objects = ObjectStore(folder)
    shards = [name for name in objects.list("png") if name.endswith(".tar")]
    if not shards:
        raise UsageError(f"{folder}: has no png/*.tar; make some with vitatlas label … --format png --out {folder}")
    for shard in shards:
        try:
            with tarfile.open(fileobj=io.BytesIO(objects.get(f"png/{shard}"))) as archive:
                for member in archive:
                    if not member.name.endswith(_SUFFIX):
                        continue
                    stream = archive.extractfile(member)
                    values = np.asarray(Image.open(stream, formats=["PNG"]))  # type: ignore[arg-type]
                    yield shard, member.name.removesuffix(_SUFFIX), values == OBJECT, values == IGNORE
        except (OSError, tarfile.TarError) as error:
            raise RunFailedError(f"{folder}/png/{shard}: cannot be read ({error}); label again") from None
