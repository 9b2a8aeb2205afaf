"""Search of a policy with truth: methods and pairs, with and without refinement, at fixed thresholds and at Otsu's."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.image.iou import box_iou, mask_iou
from pipeline.image.upsample import upsample_to_image, valid_region
from pipeline.label.calibrate import refuse_mixed_kinds, truth_by_shard
from pipeline.label.combine import combine_maps
from pipeline.label.mask import postprocess_mask
from pipeline.label.refine import Refiner, make_refiner
from pipeline.label.threshold import compute_threshold
from pipeline.run.execution import ComputeOptions
from pipeline.run.parallel_map import parallel_map
from pipeline.store import Atlas, MapReader
from pipeline.store.images import read_images
from pipeline.truth import Truth, TruthSet
from pipeline.utils.bootstrap import percentile_interval, poisson_weights
from pipeline.utils.shares import report_share
from schemas.errors import UsageError
from schemas.layout import Flag
from schemas.policy import Pamr, Policy, Threshold
from schemas.rank import POLICY_NAME, POSTPROCESS, PolicyScore

THRESHOLDS = (*(Threshold(kind="fixed", value=level / 40) for level in range(1, 40)), Threshold(kind="otsu"))
SEARCHED, REFINED = 6, 4
"""How many methods, best first by truth, are searched alone and in pairs; and how many of them with refinement too."""
FOLDS = 10
_BATCH_SIZE = 8

Overlaps = NDArray[np.float64]
"""IoU [images, policies, thresholds]."""


def list_candidates(methods: Sequence[str], ranked: Sequence[str], target: str) -> list[Policy]:
    """Return the policies to try, whose thresholds are open: single methods and pairs, and all of ``ranked``.

    Maps that are coarse or full of holes gain most by refinement, so the best methods with it may be others. The policy
    without truth is one of those tried, at Otsu's threshold.

    Args:
        methods: best first by truth.
        ranked: methods of the policy without truth; each is among ``methods``.
        target: target kind of the maps.
    """
    refined = tuple(dict.fromkeys((*methods[:REFINED], *ranked)))
    choices: list[tuple[Pamr | None, tuple[str, ...]]] = [
        (refine, names)
        for refine, tried in ((None, methods[:SEARCHED]), (Pamr(), refined))
        for size in (1, 2)
        for names in combinations(tried, size)
    ]
    if len(ranked) > 2:
        choices.append((Pamr(), tuple(ranked)))
    return [
        Policy(
            name=POLICY_NAME,
            methods=names,
            target=target,
            refine=refine,
            threshold=Threshold(kind="calibrated"),
            postprocess=POSTPROCESS,
        )
        for refine, names in choices
    ]


def search_policies(
    atlas: Atlas,
    truth: TruthSet,
    candidates: Sequence[Policy],
    seed: int = 0,
    options: ComputeOptions = ComputeOptions(),
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Policy, PolicyScore]:
    """Find the policy and threshold with the largest mean IoU of masks with truth.

    The IoU is that of the masks; where the truth has boxes only, that of the box of the largest component and the best
    true box. The same choice is made without each of ``FOLDS`` parts of the images, and the mean IoU of the images that
    were left out is ``cross_validated``: what the choice, and not only the policy, is worth on new images.

    Args:
        atlas: with the maps.
        truth: of some of its images.
        candidates: see ``list_candidates``.
        seed: of the folds.
        options: where it is computed; may shell commands be run to read images.
        log: called with what will be tried.

    Returns:
        The policy with its threshold, and its score.

    Raises:
        UsageError: fewer than two images have an object, some have masks and others only boxes, or no mask meets an
            object.
    """
    log(f"policies: {len(candidates)}, {len(THRESHOLDS)} thresholds each")
    work = partial(_shard_overlaps, candidates)
    shards = truth_by_shard(atlas, truth, candidates[0].target)
    found = dict(parallel_map(work, shards, "policies", options.address, gpu=True))
    rows = [row for shard in sorted(found) for row in found[shard]]
    kinds = {has_mask for has_mask, _ in rows}
    if len(rows) < 2:
        raise UsageError(f"{truth.name}: has an object in {len(rows)} images with maps; a policy needs at least two")
    refuse_mixed_kinds(kinds, truth)
    overlaps = np.stack([values for _, values in rows])
    chosen = choose(overlaps)
    if not overlaps[:, chosen[0], chosen[1]].any():
        raise UsageError(f"{truth.name}: no mask of any policy meets an object, whatever the threshold")
    held_out = cross_validate(overlaps, seed)
    weights = poisson_weights(np.random.default_rng(seed), len(held_out))
    with np.errstate(invalid="ignore"):
        low, high = percentile_interval(weights @ held_out / weights.sum(1)) or (held_out.mean(), held_out.mean())
    policy = candidates[chosen[0]].model_copy(update={"threshold": THRESHOLDS[chosen[1]]})
    score = PolicyScore(
        methods=policy.methods,
        refined=policy.refine is not None,
        threshold=policy.threshold.value,
        overlap=float(overlaps[:, chosen[0], chosen[1]].mean()),
        cross_validated=float(held_out.mean()),
        low=float(low),
        high=float(high),
        images=len(rows),
        of="masks" if kinds == {True} else "boxes",
    )
    return policy, score


def choose(overlaps: Overlaps) -> tuple[int, int]:
    """Return the indices of policy and threshold with the largest mean over images; of equal ones the first."""
    means = overlaps.mean(0)
    policy, threshold = np.unravel_index(int(means.argmax()), means.shape)
    return int(policy), int(threshold)


def cross_validate(overlaps: Overlaps, seed: int) -> NDArray[np.float64]:
    """Return the IoU of each image under the choice that is made without its fold: [images]."""
    images = np.random.default_rng(seed).permutation(len(overlaps))
    held_out = np.empty(len(overlaps))
    for fold in np.array_split(images, min(FOLDS, len(images))):
        policy, threshold = choose(np.delete(overlaps, fold, 0))
        held_out[fold] = overlaps[fold, policy, threshold]
    return held_out


def _shard_overlaps(
    candidates: Sequence[Policy], item: tuple[MapReader, str, TruthSet]
) -> tuple[str, list[tuple[bool, NDArray[np.float64]]]]:
    """Return a shard; and of each of its images with an object whether that has a mask, and [policies, thresholds]."""
    atlas, name, truths = item
    shard = atlas.shard(name)
    target, samples = candidates[0].target, shard.samples.to_pylist()
    methods = dict.fromkeys(method for policy in candidates for method in policy.methods)
    maps = {method: shard.maps(method, target) for method in methods}
    bounds = {method: shard.ranges(method, target) for method in methods}
    usable = {method: shard.flags(method, target) == Flag.OK for method in methods}
    with_maps = shard.has_maps_of(target)
    truth_of = {
        ordinal: truth.for_sample(samples[ordinal], atlas.run.spec.exif)
        for ordinal in np.flatnonzero(with_maps).tolist()
        if (truth := truths.find(samples[ordinal]["key"])) is not None and len(truth.boxes)
    }
    rows = []
    report_share(0)
    for ordinals, images in read_images(shard, list(truth_of), _BATCH_SIZE):
        for ordinal, pixels in zip(ordinals, images, strict=True):
            names = [method for method in methods if usable[method][ordinal]]
            heatmaps = _iter_heatmaps(
                candidates,
                {method: maps[method][ordinal] for method in names},
                {method: bounds[method][ordinal] for method in names},
                np.asarray(pixels),
            )
            overlap = _Overlap(truth_of[ordinal], samples[ordinal], atlas.run.model.input_size)
            values = np.stack(
                [
                    np.zeros(len(THRESHOLDS)) if heatmap is None else overlap.by_threshold(heatmap, policy)
                    for policy, heatmap in zip(candidates, heatmaps, strict=True)
                ]
            )
            rows.append((overlap.mask is not None, values))
            report_share(1 / len(truth_of))
    return name, rows


def _iter_heatmaps(
    candidates: Sequence[Policy],
    maps: dict[str, NDArray[np.float32]],
    bounds: dict[str, NDArray[np.float32]],
    pixels: NDArray[np.uint8],
) -> Iterator[NDArray[np.float32] | None]:
    """Yield the heatmap of each policy for one image; None if all of its maps are degenerate."""
    for policy in candidates:
        if not any(method in maps for method in policy.methods):
            yield None
            continue
        heatmap, _ = combine_maps(maps, bounds, policy)
        if isinstance(policy.refine, Pamr):
            heatmap = _refiner(policy.refine)(heatmap[None], pixels[None])[0]
        yield heatmap


@lru_cache(maxsize=1)
def _refiner(spec: Pamr) -> Refiner:
    return make_refiner(spec)


class _Overlap:
    """The IoU of masks of one image with its truth; see ``pipeline.label.calibrate.mask_overlap``."""

    def __init__(self, truth: Truth, sample: dict[str, Any], input_size: tuple[int, int]) -> None:
        self.sample, self.input_size, self.boxes, self.mask = sample, input_size, truth.boxes, truth.mask
        self.valid = valid_region(sample, input_size)
        self.counted = True if self.mask is None else ~truth.ignore | self.mask

    def by_threshold(self, heatmap: NDArray[np.float32], policy: Policy) -> NDArray[np.float64]:
        """Return the IoU at each of ``THRESHOLDS``."""
        values = upsample_to_image(heatmap, self.sample, self.input_size)
        seen = values[self.valid]
        levels = (compute_threshold(seen, threshold) for threshold in THRESHOLDS)
        return np.array([self._overlap(values, level, policy) for level in levels])

    def _overlap(self, values: NDArray[np.float32], level: float, policy: Policy) -> float:
        mask, boxes = postprocess_mask((values > level) & self.valid, policy.postprocess)
        if not boxes:
            return 0.0
        if self.mask is None:
            return float(box_iou(np.array(boxes[:1]), self.boxes).max())
        return float(mask_iou(mask & self.counted, self.mask & self.counted, empty=0.0))
