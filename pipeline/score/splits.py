"""Choice of the images that are scored and of those that thresholds are tuned on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.score.counters import tuning_rank
from pipeline.score.sources import ScoreSource
from pipeline.truth import Truth, TruthMatcher, TruthSet
from pipeline.truth.truth_faults import TruthFaults
from pipeline.utils.concurrency import concurrent_map
from schemas.base import sha256
from schemas.errors import UsageError


@dataclass(frozen=True)
class ShardTruth:
    """The images of one shard that are scored or tuned on.

    Attributes:
        truth: of the images that are scored.
        tuning_keys: keys in the truth of the scored images that thresholds are tuned on.
        tuning_only: truth of further images, which are used for tuning only.
    """

    truth: TruthSet
    tuning_keys: frozenset[str]
    tuning_only: TruthSet

    def find(self, key: str) -> tuple[Truth | None, bool]:
        """Return the annotated truth of an image, and whether it is used for tuning only."""
        truth = self.truth.find_annotated(key)
        return (self.tuning_only.find_annotated(key), True) if truth is None else (truth, False)


def build_shard_truths(
    source: ScoreSource,
    truth: TruthSet,
    tuning: TruthSet | Literal["by hash"] | None = "by hash",
    subset: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, ShardTruth]:
    """Return the truth of each shard that has any, by name.

    Args:
        source: of the predictions.
        truth: of the images that are scored.
        tuning: truth of the tuning split, which may have images that ``truth`` lacks. ``by hash``: one in a hundred of
            the images with predictions and truth, at least ten, at most half, the same of every source. None: no split.
        subset: leave out images that only one side has, and log how many.
        log: called with each message.

    Raises:
        UsageError: an image is missing on one side, or has another size in the truth; no image is on both; a truth
            matches two samples.
    """
    tuning_truth = tuning if isinstance(tuning, TruthSet) else None
    truth_sets = [truth_set for truth_set in (truth, tuning_truth) if truth_set is not None]
    matchers = [TruthMatcher(truth_set) for truth_set in truth_sets]
    keys_by_shard: dict[str, list[str]] = {}  # of images with truth: there may be very many others
    scored: dict[str, bool] = {}  # truth and tuning split have the image
    without_truth = _LeftOut()
    truth_faults = [TruthFaults() for _ in truth_sets]
    count = 0
    for shard, images in zip(source.shard_names, concurrent_map(source.images, source.shard_names), strict=True):
        count += len(images)
        for image in images:
            matches = [] if image.is_duplicate else [matcher.match(shard, image.key) for matcher in matchers]
            if any(match is not None for match in matches):
                keys_by_shard.setdefault(shard, []).append(image.key)
            if not image.has_maps:
                continue
            truths = [truth_set.find_annotated(image.key) for truth_set in truth_sets]
            for found, faults in zip(truths, truth_faults, strict=True):
                if found is not None:
                    image.place(found)  # refuses another size or an unknown orientation
                    faults.add(found, image.add_size(found))
            if truths[0] is not None:
                scored[truths[0].key] = all(truths)
            elif not any(truths):
                without_truth.add(image.key)
    with_truth = [key for keys in keys_by_shard.values() for key in keys]
    _compare_keys(source.url, truth_sets, with_truth, without_truth, count, subset, log)
    if not scored:
        raise UsageError(
            f"{source.url}: has no sample with maps and an object in {truth.name}; name the truth of its images"
        )
    pairs = zip(truth_sets, truth_faults, strict=True)
    for warning in dict.fromkeys(line for truth_set, faults in pairs for line in faults.describe(truth_set.name)):
        log(warning)
    if tuning == "by hash":
        tuning_keys = _select_tuning_keys(list(scored))
    else:
        tuning_keys = {key for key, is_tuned in scored.items() if tuning_truth and is_tuned}
    tuning_only = tuning_truth or truth.subset(())
    shard_truths = {
        shard: ShardTruth(
            part := truth.subset(keys), frozenset(tuning_keys.intersection(part)), tuning_only.subset(keys)
        )
        for shard, keys in keys_by_shard.items()
    }
    return {shard: part for shard, part in shard_truths.items() if part.truth or part.tuning_only}


def tuning_digest(parts: Iterable[ShardTruth]) -> str:
    """Return the SHA-256 of the keys in the truth that thresholds are tuned on, as ``sha256:…``.

    Args:
        parts: of all shards.
    """
    keys = {key for part in parts for key in (*part.tuning_keys, *part.tuning_only)}
    return sha256("\n".join(sorted(keys)).encode())


def _select_tuning_keys(keys: Sequence[str]) -> set[str]:
    count = min(max(10, -(-len(keys) // 100)), len(keys) // 2)
    return set(sorted(keys, key=tuning_rank)[:count])


@dataclass
class _LeftOut:
    """Images that one side lacks: their number, and the first key."""

    count: int = 0
    first: str = ""

    def add(self, key: str) -> None:
        self.first = self.first if self.count else key
        self.count += 1


def _compare_keys(
    url: str,
    truth_sets: Sequence[TruthSet],
    with_truth: Sequence[str],
    without_truth: _LeftOut,
    count: int,
    subset: bool,
    log: Callable[[str], None],
) -> None:
    """Refuse images that one side lacks, or with ``subset`` only log their number.

    Args:
        url: of the source.
        truth_sets: of scored images and of the tuning split.
        with_truth: keys of the images of the source that are in one of them.
        without_truth: images with maps that are in none.
        count: number of images of the source.
        subset: accept them.
        log: called with each message.
    """
    name = truth_sets[0].name

    def leave_out(missing: _LeftOut, fault: str, summary: str) -> None:
        if missing.count and not subset:
            others = f", nor {missing.count - 1} others" if missing.count > 1 else ""
            fix = "add it, or score the images that both have with --subset"
            raise UsageError(f"{missing.first}: {fault}{others}; {fix}")
        if missing.count:
            log(f"{missing.count} of {summary} and are left out")

    fault = f"{name} has no annotation of this image of {url}"
    leave_out(without_truth, fault, f"{count} images of {url} have no annotation in {name}")
    for truth_set in truth_sets:
        in_source, not_in_source = set(truth_set.subset(with_truth)), _LeftOut()
        for key in truth_set:
            if key not in in_source:
                not_in_source.add(key)
        fault = f"is in {truth_set.name}, but {url} has no such image"
        leave_out(not_in_source, fault, f"{len(truth_set)} images of {truth_set.name} are not in {url}")


def build_tuning_truths(
    source: ScoreSource, truth: TruthSet, subset: bool, log: Callable[[str], None] = lambda line: None
) -> dict[str, ShardTruth]:
    """Return the truth of each shard of a source that is used for tuning only, by name.

    Args:
        source: of the predictions.
        truth: of the images.
        subset: leave out images that only one side has, and log how many.
        log: called with each message.

    Raises:
        UsageError: see ``build_shard_truths``.
    """
    shard_truths = build_shard_truths(source, truth, truth, subset, log)
    return {shard: ShardTruth(truth.subset(()), frozenset(), part.truth) for shard, part in shard_truths.items()}
