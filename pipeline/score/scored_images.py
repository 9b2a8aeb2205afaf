"""Truth of the images that sources are scored on: all of one source, the same of several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.score.sources import ScoreSource
from pipeline.score.splits import ShardTruth, build_shard_truths, build_tuning_truths
from pipeline.truth import TruthSet
from pipeline.utils.concurrency import concurrent_map
from schemas.base import sha256
from schemas.errors import UsageError

Log = Callable[[str], None]


@dataclass(frozen=True)
class MatchedSource:
    """A source with the truth of its images.

    Attributes:
        source: of the predictions.
        truths: of each shard, by name.
        truth: of all images.
        tuning_truth: of the images that thresholds are tuned on; None: chosen by the hash of the keys.
        tuning_source: with predictions of images that thresholds are tuned on; None: ``source``.
        tuning_truths: of each of its shards, by name.
    """

    source: ScoreSource
    truths: dict[str, ShardTruth]
    truth: TruthSet
    tuning_truth: TruthSet | None
    tuning_source: ScoreSource | None
    tuning_truths: dict[str, ShardTruth]


def match_sources(
    sources: Sequence[ScoreSource],
    tuning_sources: Mapping[str, ScoreSource],
    truth: TruthSet,
    tuning_truth: TruthSet | None,
    subset: bool,
    log: Log = lambda line: None,
) -> list[MatchedSource]:
    """Return each source with the truth of its images, the same images for all.

    Args:
        sources: one or several.
        tuning_sources: by the name of the source that they belong to; none, or one for each.
        truth: of the images.
        tuning_truth: of the images that thresholds are tuned on; None: see ``build_shard_truths``.
        subset: leave out images that the truth or a source lacks, and log how many.
        log: called with each message.

    Raises:
        UsageError: see ``build_shard_truths``; a source lacks an image that another has.
    """
    log = _once(log)
    matched = [_match(source, tuning_sources, truth, tuning_truth, subset, log) for source in sources]
    if len(sources) == 1:
        return matched
    tuned_on = [tuning_sources.get(source.name, source) for source in sources]
    common = _restrict_to_common_images(sources, truth, subset, log)
    tuning = None if tuning_truth is None else _restrict_to_common_images(tuned_on, tuning_truth, subset, log)
    if common is truth and tuning is tuning_truth:
        return matched
    return [_match(source, tuning_sources, common, tuning, True, lambda line: None) for source in sources]


def _once(log: Log) -> Log:
    """Return a log of the lines that are new: sources of the same images share the faults of their truth."""
    said: set[str] = set()

    def log_new(line: str) -> None:
        if line not in said:
            said.add(line)
            log(line)

    return log_new


def _match(
    source: ScoreSource,
    tuning_sources: Mapping[str, ScoreSource],
    truth: TruthSet,
    tuning_truth: TruthSet | None,
    subset: bool,
    log: Log,
) -> MatchedSource:
    tuning_source = tuning_sources.get(source.name)
    if tuning_source is None:
        truths = build_shard_truths(source, truth, tuning_truth or "by hash", subset, log)
        return MatchedSource(source, truths, truth, tuning_truth, None, {})
    assert tuning_truth is not None, "a tuning source comes with its truth"
    truths = build_shard_truths(source, truth, None, subset, log)
    tuning_truths = build_tuning_truths(tuning_source, tuning_truth, subset, log)
    return MatchedSource(source, truths, truth, tuning_truth, tuning_source, tuning_truths)


def _restrict_to_common_images(sources: Sequence[ScoreSource], truth: TruthSet, subset: bool, log: Log) -> TruthSet:
    """Return the truth of the images that every source has predictions of."""
    found = [_annotated_keys(source, truth) for source in sources]
    common, union = frozenset.intersection(*found), frozenset.union(*found)
    if common == union:
        return truth
    for source, keys in zip(sources, found, strict=True):
        missing = sorted(union - keys)
        if missing and not subset:
            others = f", nor of {len(missing) - 1} others" if len(missing) > 1 else ""
            raise UsageError(
                f"{missing[0]}: {source.name} has no prediction of this image{others}, which another source has; "
                "add it, or score the images that all have with --subset"
            )
    if not common:
        names = ", ".join(source.name for source in sources)
        raise UsageError(f"{truth.name}: no image has predictions of all of {names}; name sources of the same images")
    left_out = f"{len(union) - len(common)} of {len(union)} images of {truth.name}"
    log(f"{left_out} lack a prediction of a source and are left out")
    by_key = {key: image for key, image in truth.by_key.items() if key in common}
    return replace(truth, by_key=by_key, digest=sha256("\n".join([truth.digest, *sorted(common)]).encode()))


def _annotated_keys(source: ScoreSource, truth: TruthSet) -> frozenset[str]:
    """Return the keys in the truth of the images with predictions and an annotation."""
    keys = set()
    for images in concurrent_map(source.images, source.shard_names):
        found = [truth.find_annotated(image.key) for image in images if image.has_maps]
        keys |= {image.key for image in found if image is not None}
    return frozenset(keys)
