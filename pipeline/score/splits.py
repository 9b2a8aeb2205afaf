"""Choice of the images that are scored and of those that thresholds are tuned on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pipeline.score.counters import tuning_rank
from pipeline.store import Atlas
from pipeline.truth import Truth, TruthMatcher, TruthSet
from pipeline.utils.concurrency import concurrent_map
from schemas.errors import UsageError
from schemas.samples import SampleStatus


@dataclass(frozen=True)
class ShardTruth:
    """The images of one shard that are scored or tuned on.

    Attributes:
        truth: of the images that are scored.
        tuning_keys: keys of the scored images that thresholds are tuned on.
        tuning_only: truth of further images, which are used for tuning only.
    """

    truth: TruthSet
    tuning_keys: frozenset[str]
    tuning_only: TruthSet

    def find(self, key: str) -> tuple[Truth | None, bool]:
        """Return the annotated truth of a sample, and whether it is used for tuning only."""
        truth = self.truth.find_annotated(key)
        return (self.tuning_only.find_annotated(key), True) if truth is None else (truth, False)


def build_shard_truths(
    atlas: Atlas,
    truth: TruthSet,
    tuning: TruthSet | Literal["by hash"] | None = "by hash",
    subset: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, ShardTruth]:
    """Return the truth of each committed shard that has any, by name.

    Args:
        atlas: with the maps.
        truth: of the images that are scored.
        tuning: truth of the tuning split, which may have images that ``truth`` lacks. ``by hash``: one in a hundred of
            the images with maps and truth, at least ten, at most half. None: no split.
        subset: leave out images that only one side has, and log how many.
        log: called with each message.

    Raises:
        UsageError: an image is missing on one side, or has another size in the truth; no image is on both; a truth
            matches two samples.
    """
    tuning_truth = tuning if isinstance(tuning, TruthSet) else None
    truth_sets = [truth_set for truth_set in (truth, tuning_truth) if truth_set is not None]
    matchers = [TruthMatcher(truth_set) for truth_set in truth_sets]
    keys_by_shard: dict[str, list[str]] = {}
    scored: dict[str, None] = {}
    without_truth: list[str] = []
    read = partial(atlas.samples_of, columns=["key", "status", "width", "height", "orientation"])
    for shard, table in zip(atlas.shard_names, concurrent_map(read, atlas.shard_names), strict=True):
        keys_by_shard[shard] = table["key"].to_pylist()
        for sample in table.to_pylist():
            if sample["status"] != SampleStatus.DUPLICATE_KEY:
                for matcher in matchers:
                    matcher.match(shard, sample["key"])
            if sample["status"] != SampleStatus.OK:
                continue
            truths = [truth_set.find_annotated(sample["key"]) for truth_set in truth_sets]
            for image in filter(None, truths):
                image.for_sample(sample, atlas.run.spec.exif)  # refuses another size or an unknown orientation
            if truths[0] is not None:
                scored[sample["key"]] = None
            elif not any(truths):
                without_truth.append(sample["key"])
    all_keys = [key for keys in keys_by_shard.values() for key in keys]
    _compare_keys(atlas, truth_sets, all_keys, without_truth, subset, log)
    if not scored:
        raise UsageError(
            f"{atlas.objects.url}: has no sample with maps and an object in {truth.name}; name the truth of its images"
        )
    if tuning == "by hash":
        tuning_keys = _select_tuning_keys(list(scored))
    else:
        tuning_keys = {key for key in scored if tuning_truth and tuning_truth.find_annotated(key)}
    tuning_only = tuning_truth or truth.subset(())
    shard_truths = {
        shard: ShardTruth(truth.subset(keys), frozenset(tuning_keys.intersection(keys)), tuning_only.subset(keys))
        for shard, keys in keys_by_shard.items()
    }
    return {shard: part for shard, part in shard_truths.items() if part.truth or part.tuning_only}


def _select_tuning_keys(keys: Sequence[str]) -> set[str]:
    count = min(max(10, -(-len(keys) // 100)), len(keys) // 2)
    return set(sorted(keys, key=tuning_rank)[:count])


def _compare_keys(
    atlas: Atlas,
    truth_sets: Sequence[TruthSet],
    keys: Sequence[str],
    without_truth: Sequence[str],
    subset: bool,
    log: Callable[[str], None],
) -> None:
    """Refuse images that one side lacks, or with ``subset`` only log their number."""
    url, name = atlas.objects.url, truth_sets[0].name

    def leave_out(missing: Sequence[str], fault: str, summary: str) -> None:
        if missing and not subset:
            others = f", nor {len(missing) - 1} others" if len(missing) > 1 else ""
            fix = "add it, or score the images that both have with --subset"
            raise UsageError(f"{missing[0]}: {fault}{others}; {fix}")
        if missing:
            log(f"{len(missing)} of {summary} and are left out")

    fault = f"{name} has no annotation of this image of {url}"
    leave_out(without_truth, fault, f"{len(keys)} images of {url} have no annotation in {name}")
    for truth_set in truth_sets:
        in_atlas = set(truth_set.subset(keys))
        not_in_atlas = [key for key in truth_set if key not in in_atlas]
        fault = f"is in {truth_set.name}, but {url} has no such image"
        leave_out(not_in_atlas, fault, f"{len(truth_set)} images of {truth_set.name} are not in {url}")


def build_tuning_truths(
    atlas: Atlas, truth: TruthSet, subset: bool, log: Callable[[str], None] = lambda line: None
) -> dict[str, ShardTruth]:
    """Return the truth of each shard of an atlas that is used for tuning only, by name.

    Args:
        atlas: with the maps.
        truth: of the images.
        subset: leave out images that only one side has, and log how many.
        log: called with each message.

    Raises:
        UsageError: see ``build_shard_truths``.
    """
    shard_truths = build_shard_truths(atlas, truth, truth, subset, log)
    return {shard: ShardTruth(truth.subset(()), frozenset(), part.truth) for shard, part in shard_truths.items()}
