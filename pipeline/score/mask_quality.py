"""How well pseudo-masks cover what is really there."""

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.image.iou import mask_iou
from pipeline.label.formats.png_encoding import IGNORE, OBJECT
from pipeline.label.mask import Label
from pipeline.store import ObjectStore
from pipeline.truth import TruthMatcher, TruthSet
from schemas.errors import RunFailedError, UsageError

_SUFFIX = ".mask.png"
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskScores:
    """Means over the pictures that have a mask and true masks, in %; NaN of none. What the truth ignores is left out,
    and with it a picture of which it ignores everything.

    Attributes:
        images: how many.
        unlabelled: pictures with true masks that have no label.
        mean_iou: IoU of the object; ignored pixels are not object. An empty mask has 0.
        precision: of the pixels that are labelled, how many are labelled right, as object or as background.
        precision_without_ignoring: of all pixels, where the ignored ones count as background.
        object_precision: of the pixels that are labelled object, how many are; 0 of an empty mask.
        coverage: of all pixels, how many are labelled.
        ious: by key, in [0, 1].
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
        labels: a folder or URL that ``vitatlas label`` has written with ``--format png``, or the labels themselves.

    Raises:
        UsageError: there are no such masks; a mask is not of the size of the picture in the truth; a picture of the
            truth would be that of two samples.
    """
    masks = _read(labels) if isinstance(labels, str) else _masks(labels)
    figures: list[tuple[float, ...]] = []
    ious: dict[str, float] = {}
    known: set[str] = set()
    matcher = TruthMatcher(truth)
    for shard, key, mask, ignore in masks:
        picture = matcher.match(shard, key)
        real = None if picture is None else picture.with_size(mask.shape[1], mask.shape[0]).mask
        if picture is None or real is None:
            continue
        known.add(picture.key)
        counted = real | ~picture.ignore
        if not counted.any():
            continue
        figures.append(_figures(mask[counted], ignore[counted], real[counted]))
        ious[key] = figures[-1][0]
    iou, precision, all_right, object_precision, coverage = (
        100 * np.mean(figures, axis=0) if figures else np.full(5, np.nan)
    ).tolist()
    unlabelled = sum(truth.by_key[key].mask is not None for key in truth if key not in known)
    return MaskScores(len(figures), unlabelled, iou, precision, all_right, object_precision, coverage, ious)


def _figures(mask: Mask, ignore: Mask, real: Mask) -> tuple[float, ...]:
    """In the order of ``MaskScores``, in [0, 1]."""
    right, labelled = mask == real, ~ignore
    return (
        mask_iou(mask, real, empty=0.0),
        right[labelled].sum() / max(1, labelled.sum()),
        right.mean(),
        (mask & real).sum() / max(1, mask.sum()),
        labelled.mean(),
    )


def _masks(labels: Iterable[Label]) -> Iterator[tuple[str, str, Mask, Mask]]:
    """Shard, key, object and what is ignored, of each label with a mask."""
    for label in labels:
        mask, ignore = label.mask, label.ignore
        if mask is not None:
            yield label.sample["shard"], label.sample["key"], mask, np.zeros_like(mask) if ignore is None else ignore


def _read(folder: str) -> Iterator[tuple[str, str, Mask, Mask]]:
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
