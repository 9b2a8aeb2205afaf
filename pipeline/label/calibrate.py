"""The threshold of a calibrated policy, found on a small split of which the truth is known."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.image.iou import box_iou, mask_iou
from pipeline.label.label_shard import check, heats
from pipeline.label.mask import Label, make
from pipeline.run.parallel_map import parallel_map
from pipeline.store import Atlas
from pipeline.truth import Truth, TruthMatcher, TruthSet, read_truth
from schemas.errors import UsageError
from schemas.policy import Cut, Filter, Policy
from schemas.samples import SampleStatus

THRESHOLDS: NDArray[np.float64] = np.arange(1, 50) / 50


@dataclass(frozen=True)
class Tuning:
    """Pictures of which the truth is known.

    Attributes:
        truth: file or folder, as ``read_truth`` takes it.
        atlas: of these pictures; None is the one that is labelled.
        address, allow_pipe: see ``label``.
    """

    truth: str
    atlas: str | None = None
    address: str | None = None
    allow_pipe: bool = False

    def about(self, atlas: Atlas) -> tuple[str, str]:
        """Hashes of the truth, and of the run that made the maps."""
        atlas = atlas if self.atlas is None else Atlas.open(self.atlas)
        return read_truth(self.truth).digest, atlas.run.spec_hash

    def threshold(self, atlas: Atlas, policy: Policy) -> tuple[float, str]:
        """The best of 49 thresholds for a policy, and a sentence on how it was found.

        The best has the largest mean overlap (IoU) of cleaned masks with true masks, or, where the truth has boxes
        only, of the largest component's box with the best true box. Filters, the band and scales do not apply here: a
        scale moves the threshold that was found.

        Raises:
            UsageError: no picture of the atlas has truth; see also ``check``.
        """
        atlas = atlas if self.atlas is None else Atlas.open(self.atlas)
        check(atlas, policy)
        policy = policy.model_copy(update={"filter": Filter(), "background": None})
        truth = read_truth(self.truth)
        work = partial(_overlaps, atlas, policy, self.allow_pipe)
        parts = dict(parallel_map(work, _known(atlas, truth), "calibrate", self.address, policy.refine is not None))
        found = np.array([overlaps for shard in sorted(parts) for overlaps in parts[shard]]).reshape(
            -1, len(THRESHOLDS)
        )
        total, images = found.sum(0), len(found)
        if not images:
            raise UsageError(f"{self.truth}: has no object in any picture of {atlas.objects.url}")
        best = int(total.argmax())
        if not total[best]:
            raise UsageError(f"{self.truth}: no mask of policy {policy.name} meets an object, whatever the threshold")
        said = (
            f"largest mean IoU, {total[best] / images:.4f}, of {images} pictures in {truth.name} ({truth.digest}) "
            f"with the maps of run {atlas.run.spec_hash}"
        )
        return float(THRESHOLDS[best]), said


def _known(atlas: Atlas, truth: TruthSet) -> list[tuple[str, TruthSet]]:
    """Shards with pictures of which there is truth, each with that part of it."""
    shards = [shard.name for shard in atlas.run.shards if shard.name in atlas.committed]
    parts, matcher = [], TruthMatcher(truth)
    for shard_name in shards:
        rows = atlas.samples_of(shard_name, ["key", "status"]).to_pylist()
        keys = [row["key"] for row in rows if row["status"] != SampleStatus.DUPLICATE_KEY]
        for key in keys:
            matcher.match(shard_name, key)
        parts.append((shard_name, truth.subset(keys)))
    return [(shard_name, part) for shard_name, part in parts if len(part)]


def _overlaps(
    atlas: Atlas, policy: Policy, allow_pipe: bool, item: tuple[str, TruthSet]
) -> tuple[str, list[list[float]]]:
    shard, truth = item
    found: list[list[float]] = []
    candidates = [policy.model_copy(update={"cut": Cut(kind="fixed", at=float(each))}) for each in THRESHOLDS]
    for heat, sample in heats(atlas, shard, policy, allow_pipe):
        known = truth.find(sample["key"])
        if heat is None or known is None or not len(known.boxes):
            continue
        known = known.with_size(sample["width"], sample["height"])
        frame = atlas.run.model.input_size
        found.append([overlap(make(heat, sample, frame, each), known) for each in candidates])
    return shard, found


def overlap(label: Label, truth: Truth) -> float:
    """IoU of a mask with the true one, in [0, 1]; of their boxes, where the truth has boxes only.

    Pixels that the truth ignores do not count. An empty mask has 0.
    """
    mask, real = label.mask, truth.mask
    if mask is None or not label.boxes:
        return 0.0
    if real is not None:
        counted = ~truth.ignore | real
        return float(mask_iou(mask & counted, real & counted, empty=0.0))
    return float(box_iou(np.array(label.boxes[:1]), truth.boxes).max())
