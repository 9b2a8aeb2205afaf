"""Which pictures of an atlas are scored, and which of them thresholds are tuned on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pipeline.score.counters import order
from pipeline.store import Atlas
from pipeline.truth import Truth, TruthMatcher, TruthSet
from pipeline.utils.concurrency import concurrent_map
from schemas.errors import UsageError
from schemas.samples import SampleStatus


@dataclass(frozen=True)
class Part:
    """What is scored of one shard.

    Attributes:
        truth: of its pictures.
        split: keys of those that thresholds are tuned on.
        aside: truth of further pictures, which thresholds are tuned on and nothing else is done with.
    """

    shard: str
    truth: TruthSet
    split: frozenset[str] = frozenset()
    aside: TruthSet | None = None

    def of(self, key: str) -> tuple[Truth | None, bool]:
        """The truth of a picture, and whether it is of one that serves for tuning only."""
        known = said(self.truth, key)
        if known is None and self.aside is not None:
            return said(self.aside, key), True
        return known, False


def said(truth: TruthSet, key: str) -> Truth | None:
    """What is said of a picture; None where nothing is, even if it is named."""
    known = truth.find(key)
    return known if known is not None and known.is_annotated else None


def parts_of(
    atlas: Atlas,
    truth: TruthSet,
    tuning: TruthSet | Literal["by hash"] | None = "by hash",
    subset: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Part]:
    """The part of each finished shard; shards of which nothing is known are left out.

    Args:
        tuning: names the tuning split, and says what the truth does not. ``by hash``: one in a hundred of the pictures
            with maps and truth, at least ten, at most half. None: no split.
        subset: leave out pictures that only one side has, and say how many.

    Raises:
        UsageError: a picture is missing on one side, or is of another size in the truth; no picture is on both; a
            picture of the truth would be that of two samples.
    """
    named = tuning if isinstance(tuning, TruthSet) else None
    keys: dict[str, list[str]] = {}
    good: dict[str, None] = {}
    lacking: list[str] = []
    claims = [TruthMatcher(each) for each in (truth, named) if each is not None]
    read = partial(atlas.samples_of, columns=["key", "status", "width", "height"])
    for shard, table in zip(atlas.shard_names, concurrent_map(read, atlas.shard_names), strict=True):
        keys[shard] = table["key"].to_pylist()
        for row in table.to_pylist():
            if row["status"] != SampleStatus.DUPLICATE_KEY:
                for each in claims:
                    each.match(shard, row["key"])
            if row["status"] != SampleStatus.OK:
                continue
            both = [said(each, row["key"]) for each in (truth, named) if each is not None]
            for known in both:
                if known is not None:
                    known.with_size(row["width"], row["height"])
            if both[0] is not None:
                good[row["key"]] = None
            elif not any(both):
                lacking.append(row["key"])
    _compare(atlas, truth, named, [key for every in keys.values() for key in every], lacking, subset, say)
    if not good:
        raise UsageError(f"{atlas.objects.url}: has no sample with maps and an object in {truth.name}")
    split = frozenset(
        _chosen(list(good)) if tuning == "by hash" else (key for key in good if named and said(named, key))
    )
    parts = [
        Part(shard, truth.subset(every), split & set(every), named.subset(every) if named else None)
        for shard, every in keys.items()
    ]
    return [part for part in parts if len(part.truth) or (part.aside is not None and len(part.aside))]


def _chosen(keys: Sequence[str]) -> list[str]:
    count = min(max(10, -(-len(keys) // 100)), len(keys) // 2)
    return sorted(keys, key=order)[:count]


def _compare(
    atlas: Atlas,
    truth: TruthSet,
    tuning: TruthSet | None,
    keys: Iterable[str],
    lacking: Sequence[str],
    subset: bool,
    say: Callable[[str], None],
) -> None:
    """Refuse, or only say, what one side lacks."""
    keys = list(keys)
    url = atlas.objects.url
    mend = "add it, or score what both have with --subset"
    if lacking and not subset:
        what = f"{truth.name} has no annotation of this picture of {url}"
        raise UsageError(f"{lacking[0]}: {what}{_further(lacking)}; {mend}")
    if lacking:
        say(f"{len(lacking)} of {len(keys)} pictures of {url} have no annotation in {truth.name} and are left out")
    for each in filter(None, (truth, tuning)):
        there = set(each.subset(keys))
        strange = [key for key in each if key not in there]
        if strange and not subset:
            raise UsageError(
                f"{strange[0]}: stands in {each.name}, but {url} has no such picture{_further(strange)}; {mend}"
            )
        if strange:
            say(f"{len(strange)} of {len(each)} pictures of {each.name} are not in {url} and are left out")


def _further(keys: Sequence[str]) -> str:
    return f", nor {len(keys) - 1} others" if len(keys) > 1 else ""


def tuning_parts(
    atlas: Atlas, truth: TruthSet, subset: bool, say: Callable[[str], None] = lambda line: None
) -> Iterator[Part]:
    """Parts of an atlas all of whose pictures serve for tuning. Raises: see ``parts_of``."""
    for part in parts_of(atlas, truth, truth, subset, say):
        yield Part(part.shard, truth.subset(()), aside=part.truth)
