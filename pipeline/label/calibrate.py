"""Calibration: find the threshold of a policy on a small split of images with truth."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.image.iou import box_iou, mask_iou
from pipeline.label.label_shard import check_policy, iter_heatmaps
from pipeline.label.mask import Label, make_label
from pipeline.run.execution import ComputeOptions
from pipeline.run.parallel_map import parallel_map
from pipeline.store import MapReader
from pipeline.truth import Truth, TruthSet
from pipeline.truth.match_atlas import match_truth
from schemas.errors import UsageError
from schemas.policy import LabelFilter, Pamr, Policy, Threshold

THRESHOLDS: NDArray[np.float64] = np.arange(1, 50) / 50


@dataclass(frozen=True)
class CalibrationSource:
    """Images with truth, on which a threshold is found.

    Attributes:
        truth: truth of the images.
        atlas: maps of the images; None is the atlas that is labelled.
    """

    truth: TruthSet
    atlas: MapReader | None = None

    def find_threshold(
        self,
        atlas: MapReader,
        policy: Policy,
        options: ComputeOptions = ComputeOptions(),
        log: Callable[[str], None] = lambda line: None,
    ) -> tuple[float, str]:
        """Return the best of 49 thresholds for a policy, and a sentence on how it was found.

        The best threshold has the largest mean overlap (IoU) of postprocessed masks with true masks. Where the truth
        has boxes only, the overlap is that of the largest component's box with the best true box. The filter, the
        background threshold and scales are not applied here: a scale changes the threshold that was found.

        Args:
            atlas: the atlas that is labelled.
            policy: a calibrated policy.
            options: where it is computed; may shell commands be run to read images.
            log: called with each sign that the truth means something else than its format says.

        Raises:
            UsageError: no image of the atlas has truth; a truth matches two samples or is of another size; it has
                masks of some images and boxes of others; or the policy cannot be applied, see ``check_policy``.
        """
        atlas, truth = self.atlas or atlas, self.truth
        check_policy(atlas, policy)
        policy = policy.model_copy(update={"filter": LabelFilter(), "background_threshold": None})
        work = partial(_shard_overlaps, policy, options.allow_pipe)
        shards = truth_by_shard(atlas, truth, atlas.find_target(policy.target), log)
        needs_gpu = isinstance(policy.refine, Pamr)  # a segmenter is not applied here
        by_shard = dict(parallel_map(work, shards, "calibrate", options.address, needs_gpu))
        rows = [row for shard in sorted(by_shard) for row in by_shard[shard]]
        refuse_mixed_kinds({has_mask for has_mask, _ in rows}, truth)
        total, images = np.array([overlaps for _, overlaps in rows]).reshape(-1, len(THRESHOLDS)).sum(0), len(rows)
        if not images:
            raise UsageError(f"{truth.name}: has no object in any image of {atlas.url}")
        best = int(total.argmax())
        if not total[best]:
            raise UsageError(f"{truth.name}: no mask of policy {policy.name} meets an object, whatever the threshold")
        runs = " and ".join(f"run {run_hash}" for run_hash in runs_of(atlas).values())
        return float(THRESHOLDS[best]), (
            f"largest mean IoU, {total[best] / images:.4f}, of {images} images in {truth.name} ({truth.digest}) "
            f"with the maps of {runs}"
        )


def refuse_mixed_kinds(kinds: Collection[bool], truth: TruthSet) -> None:
    """Refuse a truth whose overlaps would be of masks in some images, and of boxes in others.

    Args:
        kinds: whether images have masks of their objects.
        truth: of the images.

    Raises:
        UsageError: some do, and others do not.
    """
    if len(kinds) > 1:
        raise UsageError(f"{truth.name}: has masks of some images and only boxes of others; give one kind at a time")


def runs_of(atlas: MapReader) -> dict[str, str]:
    """Return the hash of the run of an atlas; of several networks that are joined, of each by its name."""
    return {name: reader.run.run_hash for name, reader in (atlas.networks or {"": atlas}).items()}


def describe_maps(atlas: MapReader, methods: Collection[str]) -> str:
    """Return what tells the maps of methods from others: the hashes of the runs, and of the parts that have some.

    A method that was dropped and added again, such as with another artifact, has maps of another part.
    """
    made_by = {
        run for shard in atlas.shard_names for method in methods for run in atlas.run_of(shard, method).split(",")
    }
    parts = made_by - {"", *(each.run.run_hash for each in atlas.atlases)}
    return " ".join([*runs_of(atlas).values(), *sorted(parts)])


def truth_by_shard(
    atlas: MapReader, truth: TruthSet, target: str, log: Callable[[str], None] = lambda line: None
) -> list[tuple[MapReader, str, TruthSet]]:
    """Return the shards that have images with truth, each with its reader and its part of the truth.

    Arguments and errors: see ``match_truth``.
    """
    parts = match_truth(atlas, truth, target, log)
    return [(atlas.of_shard(shard), shard, part) for shard, part in parts.items() if len(part)]


def _shard_overlaps(
    policy: Policy, allow_pipe: bool, item: tuple[MapReader, str, TruthSet]
) -> tuple[str, list[tuple[bool, list[float]]]]:
    """Return a shard, and for each of its images with truth whether it has masks, and the overlap at each threshold."""
    atlas, shard, truths = item
    rows: list[tuple[bool, list[float]]] = []
    candidates = [
        policy.model_copy(update={"threshold": Threshold(kind="fixed", value=float(value))}) for value in THRESHOLDS
    ]
    for heatmap, sample in iter_heatmaps(atlas, shard, policy, allow_pipe):
        truth = truths.find(sample["key"])
        if heatmap is None or truth is None or not len(truth.boxes):
            continue
        truth = truth.for_sample(sample, atlas.run.spec.exif)
        size = atlas.run.model.input_size
        labels = (make_label(heatmap, sample, size, candidate) for candidate in candidates)
        rows.append((truth.mask is not None, [mask_overlap(label, truth) for label in labels]))
    return shard, rows


def mask_overlap(label: Label, truth: Truth) -> float:
    """Return the IoU of a mask with the true mask, in [0, 1]; of their boxes, where the truth has boxes only.

    Pixels that the truth ignores do not count. An empty mask has 0.
    """
    mask, true_mask = label.mask, truth.mask
    if mask is None or not label.boxes:
        return 0.0
    if true_mask is not None:
        counted = ~truth.ignore | true_mask
        return float(mask_iou(mask & counted, true_mask & counted, empty=0.0))
    return float(box_iou(np.array(label.boxes[:1]), truth.boxes).max())
