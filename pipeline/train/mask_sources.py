"""Sources of training masks: annotation files, or pseudo-masks of an atlas."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.label import iter_labels, read_policy
from pipeline.label.calibrate import describe_maps
from pipeline.label.label_shard import check_policy
from pipeline.label.mask import Label
from pipeline.label.refine import pin_checkpoint
from pipeline.read import DecodedSample, PreprocessConfig
from pipeline.store import Atlas
from pipeline.truth import read_truth
from pipeline.truth.truth_faults import TruthFaults
from schemas.errors import UsageError
from schemas.labels import LabelStatus
from schemas.layout import Flag
from schemas.policy import Policy
from schemas.run import Exif, Grouping, KeySeparator, MaskValues, RunSpec, TruthOrientation
from schemas.shard_record import ShardRecord
from schemas.training import MaskSpec

PSEUDO_MASK_SUFFIX = ".mask.png"
"""End of the names of masks that ``vitatlas label`` writes."""


@dataclass(frozen=True)
class MaskTarget:
    """Mask of one image in its own pixels.

    Attributes:
        mask: bool [height, width], True on the object.
        ignore: bool [height, width], True where the truth is unknown.
        boxed: whether the mask consists of filled boxes, which may contain background.
    """

    mask: NDArray[np.bool_]
    ignore: NDArray[np.bool_]
    boxed: bool = False

    def to_planes(self, sample: DecodedSample, frame: PreprocessConfig) -> NDArray[np.uint8]:
        """Resample the mask into the preprocessed image.

        Args:
            sample: sample of the mask, which has an image.
            frame: preprocessing.

        Returns:
            Fraction of each pixel that is object, and that is ignored: uint8 [2, H, W], 255 means 1.

        Raises:
            UsageError: mask and image differ in size.
        """
        assert sample.image is not None, "a sample without an image has no frame"
        width, height = sample.image.width, sample.image.height
        if self.mask.shape != (height, width):
            size = f"{self.mask.shape[1]}×{self.mask.shape[0]}"
            fault = f"{sample.key}: its mask is {size} pixels, the image {width}×{height}"
            raise UsageError(f"{fault}; are these the masks of other shards?")
        placement = sample.image.transform
        window = (
            slice(placement.top, placement.top + frame.height),
            slice(placement.left, placement.left + frame.width),
        )
        planes = [
            cv2.resize(plane.astype(np.uint8) * 255, placement.size, interpolation=cv2.INTER_AREA)[window]
            for plane in (self.mask & ~self.ignore, self.ignore)
        ]
        return np.stack(planes)


class MaskSource(Protocol):
    """Source of masks by sample key.

    Attributes:
        description: name and hash of the source, for the artifact's record.
        count: number of images that have a mask; None if all images of the shards may have one.
    """

    description: str
    count: int | None

    def __contains__(self, key: object) -> bool:
        """Whether there may be a mask for the key."""

    def find(self, shard: str, sample: DecodedSample) -> MaskTarget | None:
        """Return the mask of a sample, or None.

        Args:
            shard: name of the sample's shard.
            sample: sample.
        """


class TruthMaskSource:
    """Masks of annotation files. Boxes are used for images that have no mask."""

    def __init__(
        self,
        path: str,
        orientation: TruthOrientation | None,
        mask_values: MaskValues | None,
        key_separator: KeySeparator,
        exif: Exif,
    ) -> None:
        self._truths, self._exif = read_truth(path, orientation, mask_values, key_separator), exif
        self.count: int | None = sum(truth.is_annotated for truth in self._truths.by_key.values())
        if not self.count:
            raise UsageError(f"{path}: has no annotation of any image; choose another file")
        self.description = f"{self._truths.name} {self._truths.digest}"

    def __contains__(self, key: object) -> bool:
        return self._truths.find_annotated(str(key)) is not None

    def describe_faults(self) -> Iterator[str]:
        """Yield each sign that the truth means something else than its format says, by its classes and sized boxes.

        Masks without boxes are not decoded, since not all need be of training images.

        Raises:
            UsageError: see ``TruthFaults.describe``.
        """
        faults = TruthFaults()
        for truth in self._truths.by_key.values():
            if len(truth.categories) > 1 or len(truth.written_boxes):
                faults.add(truth, truth)
        return faults.describe(self._truths.name)

    def find(self, shard: str, sample: DecodedSample) -> MaskTarget | None:
        truth = self._truths.find(sample.key)
        image = sample.image
        if truth is not None and image is not None and (truth.width is None or image.orientation != 1):
            truth = truth.for_sample(vars(image), self._exif)
        if truth is None:
            return None
        mask = truth.mask
        if mask is not None:
            return MaskTarget(mask, truth.ignore & ~mask)
        if not len(truth.boxes):  # only crowds are annotated
            return None
        filled = np.zeros_like(truth.ignore)
        for x0, y0, x1, y1 in truth.boxes.tolist():
            filled[y0 : y1 + 1, x0 : x1 + 1] = True
        return MaskTarget(filled, truth.ignore & ~filled, boxed=True)


class PseudoMaskSource:
    """Pseudo-masks that a policy makes of the maps of an atlas: no localization labels are used.

    An image has no mask if its pseudo-mask is empty, is of another class than its label, or comes from a constant map.
    Pixels outside of the model's view are ignored.
    """

    count: int | None = None

    def __init__(self, atlas: Atlas, policy: Policy) -> None:
        check_policy(atlas, policy)
        self._atlas, self._policy = atlas, (policy := pin_checkpoint(policy))
        if policy.calibrated:
            fault = f"policy {policy.name}: its threshold is not calibrated yet"
            raise UsageError(f"{fault}; give the policy with the fixed threshold that vitatlas label --tune found")
        self.description = f"{policy.name} {policy.digest()} of atlas {describe_maps(atlas, policy.methods)}"
        self._labels = lru_cache(maxsize=2)(self._read_labels)

    def __contains__(self, key: object) -> bool:
        return True

    @property
    def run(self) -> RunSpec:
        """Spec of the run that the masks are of."""
        return self._atlas.run.spec

    def check_shards(self, shards: Iterable[ShardRecord]) -> None:
        """Refuse shards that the atlas has no maps of.

        Raises:
            UsageError: a shard is not in the atlas, or has another number of samples there.
        """
        for shard in shards:
            commit = self._atlas.commits.get(shard.name)
            if commit is None or commit.rows != shard.samples:
                fault = "has no maps of" if commit is None else f"has {commit.rows} samples, not {shard.samples}, of"
                url = self._atlas.objects.url
                raise UsageError(f"{url}: {fault} {shard.name}; make the atlas of the training shards")

    def find(self, shard: str, sample: DecodedSample) -> MaskTarget | None:
        labels, has_map = self._labels(shard)
        ordinal = sample.ordinal
        label = labels[ordinal]
        if label.sample["key"] != sample.key:
            raise UsageError(
                f"{shard}: sample {ordinal} is {sample.key}, in the atlas it is {label.sample['key']}; "
                f"make the atlas of the training shards"
            )
        if not has_map[ordinal] or label.status != LabelStatus.OK or label.class_id != sample.label:
            return None
        assert label.mask is not None, "a label with status ok has a mask"
        assert label.ignore is not None, "a label with status ok has an ignore mask"
        return MaskTarget(label.mask, label.ignore)

    def _read_labels(self, shard: str) -> tuple[list[Label], NDArray[np.bool_]]:
        """Return the labels of a shard without heatmaps, and whether any of their maps is not constant."""
        policy, atlas_shard = self._policy, self._atlas.shard(shard)
        flags = [atlas_shard.flags(method, policy.target) == Flag.OK for method in policy.methods]
        return [label.without_heatmap() for label in iter_labels(self._atlas, shard, policy)], np.any(flags, axis=0)


def open_mask_source(spec: MaskSpec, grouping: Grouping = Grouping(), exif: Exif = "apply") -> MaskSource:
    """Open the masks that a spec names.

    Args:
        spec: source of the masks.
        grouping: rule of the keys of the images.
        exif: whether the images are turned upright (``apply``) or taken as they are stored (``ignore``).

    Raises:
        UsageError: it names no source, or several, or the source cannot be read.
    """
    if spec.truth is not None and (spec.atlas or spec.policy):
        raise UsageError("--masks are labels, --atlas and --policy make pseudo-masks instead; give one of the two")
    if spec.truth is not None:
        return open_truth_masks(spec.truth, spec.truth_orientation, spec.mask_values, grouping.key_separator, exif)
    if spec.atlas is None:
        raise UsageError("there are no masks to train on; give --masks FILE|DIR, or --atlas ATLAS with --policy FILE")
    if spec.policy is None:
        raise UsageError(f"{spec.atlas}: there is no policy that makes masks of its maps; give --policy FILE")
    return PseudoMaskSource(Atlas.open(spec.atlas), read_policy(spec.policy))


def open_held_out_masks(spec: MaskSpec, grouping: Grouping = Grouping(), exif: Exif = "apply") -> MaskSource | None:
    """Open the truth of the held-out images, if the spec names one; see ``open_mask_source``."""
    if spec.held_out_truth is None:
        return None
    options = spec.truth_orientation, spec.mask_values
    return open_truth_masks(spec.held_out_truth, *options, grouping.key_separator, exif)


def open_truth_masks(
    path: str,
    orientation: TruthOrientation | None = None,
    mask_values: MaskValues | None = None,
    key_separator: KeySeparator = "first-dot",
    exif: Exif = "apply",
) -> MaskSource:
    """Open masks or boxes of annotation files, in the formats of ``read_truth``.

    Args:
        path: the file or folder.
        orientation: see ``read_truth``.
        mask_values: see ``read_truth``.
        key_separator: see ``read_truth``.
        exif: see ``open_mask_source``.

    Raises:
        UsageError: they cannot be read, or are pseudo-masks.
    """
    if next(Path(path).rglob(f"*{PSEUDO_MASK_SUFFIX}"), None) is not None:
        raise UsageError(f"{path}: holds pseudo-masks of vitatlas label; train on them by --atlas and --policy")
    return TruthMaskSource(path, orientation, mask_values, key_separator, exif)
