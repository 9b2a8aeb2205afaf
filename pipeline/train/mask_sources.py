"""Where the object is in the pictures that are learnt from: masks, boxes, or what an atlas makes of its maps."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.label import iter_labels, read_policy
from pipeline.label.label_shard import check_policy
from pipeline.label.mask import Label
from pipeline.read import DecodedSample, PreprocessConfig
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.errors import UsageError
from schemas.labels import LabelStatus
from schemas.layout import Flag
from schemas.policy import Policy
from schemas.run import ShardRecord
from schemas.training import MaskSpec

PSEUDO = ".mask.png"
"""What ``vitatlas label`` calls its masks."""


@dataclass(frozen=True)
class Known:
    """What is known of one picture.

    Attributes:
        object: bool [height, width] in its own pixels.
        ignore: the same; True where nothing is known.
        boxed: ``object`` is filled boxes, so a pixel in it may be of the ground.
    """

    object: NDArray[np.bool_]
    ignore: NDArray[np.bool_]
    boxed: bool = False

    def planes(self, sample: DecodedSample, frame: PreprocessConfig) -> NDArray[np.uint8]:
        """Object and ignored area of each pixel of the frame: uint8 [2, H, W], 255 is all of it.

        Raises:
            UsageError: the mask is of another size than the picture.
        """
        assert sample.image is not None, "a sample without a picture has no frame"
        width, height = sample.image.width, sample.image.height
        if self.object.shape != (height, width):
            wrong = f"{self.object.shape[1]}×{self.object.shape[0]}"
            what = f"{sample.key}: its mask is {wrong} pixels, the picture {width}×{height}"
            raise UsageError(f"{what}; are these the masks of other shards?")
        placement = sample.image.transform
        cut = (slice(placement.top, placement.top + frame.height), slice(placement.left, placement.left + frame.width))
        planes = [
            cv2.resize(plane.astype(np.uint8) * 255, placement.size, interpolation=cv2.INTER_AREA)[cut]
            for plane in (self.object & ~self.ignore, self.ignore)
        ]
        return np.stack(planes)


class Masks(Protocol):
    """Masks by key.

    Attributes:
        about: what they are, with a hash, for the card.
        count: of how many pictures they are; None where that is every picture of the shards.
    """

    about: str
    count: int | None

    def __contains__(self, key: object) -> bool:
        """Whether there may be a mask of that key."""

    def of(self, shard: str, sample: DecodedSample) -> Known | None:
        """What is known of a sample; None where nothing is."""


class TruthMasks:
    """What annotation files say. Objects of which one has a box only make the picture a boxed one."""

    def __init__(self, source: str) -> None:
        self._truths = read_truth(source)
        self.count: int | None = sum(self._truths.by_key[key].is_annotated for key in self._truths)
        if not self.count:
            raise UsageError(f"{source}: has no annotation of any picture")
        self.about = f"{self._truths.name} {self._truths.digest}"

    def __contains__(self, key: object) -> bool:
        truth = self._truths.find(str(key))
        return truth is not None and truth.is_annotated

    def of(self, shard: str, sample: DecodedSample) -> Known | None:
        truth = self._truths.find(sample.key)
        if truth is not None and truth.width is None and sample.image is not None:
            truth = truth.with_size(sample.image.width, sample.image.height)
        if truth is None:
            return None
        mask = truth.mask
        if mask is not None:
            return Known(mask, truth.ignore & ~mask)
        corners = truth.boxes
        if not len(corners):  # nothing is said of single objects
            return None
        filled = np.zeros_like(truth.ignore)
        for x0, y0, x1, y1 in corners.tolist():
            filled[y0 : y1 + 1, x0 : x1 + 1] = True
        return Known(filled, truth.ignore & ~filled, boxed=True)


class PseudoMasks:
    """What a policy makes of an atlas's maps: no locality label at all.

    Nothing is known of a picture whose mask is empty, is of another class than its label, or comes from a map that
    says nothing; and nothing of the part of a picture that the network did not see.
    """

    count: int | None = None

    def __init__(self, url: str, policy: Policy) -> None:
        self._atlas, self._policy = Atlas.open(url), policy
        check_policy(self._atlas, policy)
        if policy.calibrated:
            what = f"policy {policy.name}: its threshold is still to be found"
            raise UsageError(f"{what}; write the one that vitatlas label --tune found, as a fixed cut")
        self.about = f"{policy.name} {policy.digest()} of atlas {self._atlas.run.spec_hash}"
        self._labels = lru_cache(maxsize=2)(self._read)

    def __contains__(self, key: object) -> bool:
        return True

    def check(self, shards: Iterable[ShardRecord]) -> None:
        """Refuse shards that the atlas has no maps of.

        Raises:
            UsageError: there is one, or it holds another number of samples.
        """
        for shard in shards:
            commit = self._atlas.commits.get(shard.name)
            if commit is None or commit.rows != shard.samples:
                what = "has no maps of" if commit is None else f"has {commit.rows} samples, not {shard.samples}, of"
                url = self._atlas.objects.url
                raise UsageError(f"{url}: {what} {shard.name}; make the atlas of the shards to learn from")

    def of(self, shard: str, sample: DecodedSample) -> Known | None:
        labels, told = self._labels(shard)
        place = sample.ordinal
        label = labels[place]
        if label.sample["key"] != sample.key:
            raise UsageError(f"{shard}: sample {place} is {sample.key}, in the atlas it is {label.sample['key']}")
        if not told[place] or label.status != LabelStatus.OK or label.class_id != sample.label:
            return None
        assert label.mask is not None, "what is labelled has a mask"
        assert label.ignore is not None, "and what is ignored beside it"
        return Known(label.mask, label.ignore)

    def _read(self, shard: str) -> tuple[list[Label], NDArray[np.bool_]]:
        """Labels of a shard without what they were cut from; and of which there is a map that says something."""
        policy, part = self._policy, self._atlas.shard(shard)
        told = np.any([part.flags(method, policy.target) == Flag.OK for method in policy.methods], axis=0)
        return [label.without_heatmap() for label in iter_labels(self._atlas, shard, policy)], told


def masks(spec: MaskSpec) -> Masks:
    """The masks that a spec names.

    Raises:
        UsageError: it names none, or several; or they cannot be read.
    """
    if spec.truth is not None and (spec.atlas or spec.policy):
        raise UsageError("--masks are labels, --atlas and --policy make pseudo-masks instead; give one of the two")
    if spec.truth is not None:
        return truth_masks(spec.truth)
    if spec.atlas is None:
        raise UsageError("say where the object is: --masks FILE|DIR, or --atlas ATLAS with --policy FILE")
    if spec.policy is None:
        raise UsageError(f"{spec.atlas}: say how its maps become masks, with --policy FILE")
    return PseudoMasks(spec.atlas, read_policy(spec.policy))


def truth_masks(source: str) -> Masks:
    """Masks or boxes of annotation files, as ``read_truth`` takes them."""
    if next(Path(source).rglob(f"*{PSEUDO}"), None) is not None:
        raise UsageError(f"{source}: holds pseudo-masks of vitatlas label; learn from them by --atlas and --policy")
    return TruthMasks(source)
