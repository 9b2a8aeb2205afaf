"""The threshold of a calibrated policy, found on a small split of which the truth is known."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.label.labels import check, heats
from pipeline.label.mask import Label, make
from pipeline.run.spread import spread
from pipeline.store import Atlas
from pipeline.truth import Truth, Truths, read_truth
from schemas.errors import UsageError
from schemas.policy import Cut, Filter, Policy

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
        work = partial(_overlaps, atlas.objects.url, policy, self.allow_pipe)
        total, images = np.zeros(len(THRESHOLDS)), 0
        for overlaps, count in spread(work, _known(atlas, truth), "calibrate", self.address, policy.refine is not None):
            total, images = total + overlaps, images + count
        if not images:
            raise UsageError(f"{self.truth}: has no object in any picture of {atlas.objects.url}")
        best = int(total.argmax())
        said = (
            f"largest mean IoU, {total[best] / images:.4f}, of {images} pictures in {truth.name} ({truth.digest}) "
            f"with the maps of run {atlas.run.spec_hash}"
        )
        return float(THRESHOLDS[best]), said


def _known(atlas: Atlas, truth: Truths) -> list[tuple[str, Truths]]:
    """Tars with pictures of which there is truth, each with that part of it."""
    tars = [shard.tar for shard in atlas.run.shards if shard.tar in atlas.committed]
    parts = [(tar, truth.subset(atlas.samples_of(tar, ["key"])["key"].to_pylist())) for tar in tars]
    return [(tar, part) for tar, part in parts if len(part)]


def _overlaps(url: str, policy: Policy, allow_pipe: bool, item: tuple[str, Truths]) -> tuple[NDArray[np.float64], int]:
    (tar, truth), atlas = item, Atlas.open(url)
    total, images = np.zeros(len(THRESHOLDS)), 0
    candidates = [policy.model_copy(update={"cut": Cut(kind="fixed", at=float(each))}) for each in THRESHOLDS]
    for heat, sample in heats(atlas, tar, policy, allow_pipe):
        known = truth.of(sample["key"])
        if heat is None or known is None or not len(known.corners):
            continue
        known = known.of_size(sample["width"], sample["height"])
        images += 1
        frame = atlas.run.model.input_size
        total += [overlap(make(heat, sample, frame, each), known) for each in candidates]
    return total, images


def overlap(label: Label, truth: Truth) -> float:
    """IoU of a mask with the true one, in [0, 1]; of their boxes, where the truth has boxes only.

    Pixels that the truth ignores do not count. An empty mask has 0.
    """
    mask, real = label.mask, truth.mask
    if mask is None or not label.boxes:
        return 0.0
    if real is not None:
        counts = ~truth.ignore | real
        return float((mask & real & counts).sum() / ((mask | real) & counts).sum())
    box = np.array(label.boxes[0])
    low, high = np.maximum(box[:2], truth.corners[:, :2]), np.minimum(box[2:], truth.corners[:, 2:])
    shared = np.clip(high - low + 1, 0, None).prod(1)
    areas = [(each[..., 2:] - each[..., :2] + 1).prod(-1) for each in (box, truth.corners)]
    return float((shared / (areas[0] + areas[1] - shared)).max())
