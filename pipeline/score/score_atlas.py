"""Localization scores of an atlas: every method against the truth."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.run.derive import DerivedProduct, ShardResult, ShardTask, derive, derive_shards
from pipeline.run.execution import ComputeOptions
from pipeline.score.aggregate import row
from pipeline.score.counters import ALL, Tally, unpack
from pipeline.score.plots import curves, draw
from pipeline.score.score_shard import counts_object, score_shard
from pipeline.score.splits import Part, parts_of, tuning_parts
from pipeline.score.trivial_boxes import TRIVIAL
from pipeline.store import Atlas, ObjectStore
from pipeline.store.derived import check_output_dir
from pipeline.store.parquet import to_parquet
from pipeline.truth import TruthSet
from schemas.base import sha256
from schemas.commits import DerivedCommit
from schemas.errors import UsageError
from schemas.layout import ABOUT, SCORES
from schemas.run import TargetKind
from schemas.scores import LOCALIZATION, ScoresRecord, TuningRecord, is_control

R = TypeVar("R")
TABLE, CURVES, FIGURE, TUNING = "localization.parquet", "curves.parquet", "curves.png", "tuning"


def score(
    atlas: Atlas,
    truth: TruthSet,
    target: TargetKind = "label",
    methods: Sequence[str] = (),
    tune: TruthSet | None = None,
    tune_atlas: Atlas | None = None,
    subset: bool = False,
    out: str | None = None,
    options: ComputeOptions = ComputeOptions(),
    say: Callable[[str], None] = lambda line: None,
) -> pa.Table:
    """Score the maps of an atlas. What is counted already is not counted again.

    Writes ``about.json``; for each shard ``counts/<shard>.npz`` and ``commits/<shard>.json``; then ``curves.parquet``,
    ``curves.png`` and ``localization.parquet``.

    Args:
        atlas: the atlas with the maps.
        truth: truth of its images.
        target: whose maps; ``label`` is what the literature calls GT-known.
        methods: names of methods; empty is all.
        tune: truth of the images that thresholds are tuned on, in this atlas or in ``tune_atlas``. None: see
            ``parts_of``.
        tune_atlas: maps of the images that thresholds are tuned on; None is ``atlas``.
        subset: score the images that truth and atlas both have.
        out: folder or URL; None is ``scores/<truth>-<target>`` in the atlas.
        options: where it is computed.
        say: told what is left out.

    Returns:
        A table as ``schemas.scores.LOCALIZATION``, best PxAP first.

    Raises:
        UsageError: no such method or target; an image without truth, truth without an image, truth of another
            size, an object that cannot be used; ``out`` holds other scores. No table is written then.
    """
    chosen = tuple(dict.fromkeys(methods)) or atlas.methods
    atlas.require(target, chosen)
    if tune_atlas is not None and tune is None:
        raise UsageError(f"{tune_atlas.objects.url}: say the truth of its pictures, with --tune FILE|DIR")
    parts = parts_of(atlas, truth, None if tune_atlas else tune or "by hash", subset, say)
    further: list[Part] = []
    if tune_atlas is not None and tune is not None:
        tune_atlas.require(target, chosen)
        if tune_atlas.run.model.weights != atlas.run.model.weights:
            raise UsageError(
                f"{tune_atlas.objects.url}: is of another network than {atlas.objects.url}; its thresholds say nothing here"
            )
        further = list(tuning_parts(tune_atlas, tune, subset, say))
    about = _about(atlas, truth, target, subset, tune, tune_atlas, [*parts, *further])
    objects = ObjectStore(out or default_output_dir(atlas.objects.url, truth, target))
    tuning = _TuningCounts(tune_atlas, objects, about, further, chosen) if tune_atlas is not None else None
    return derive(_Scores(atlas, objects, about, parts, chosen, tuning, options, say), options)


_Counts = tuple[dict[str, Tally], Counter[str]]
"""Counts of all shards together by method, and numbers of images by what became of them."""


class _ShardCounts(DerivedProduct[Part, R]):
    """Counts of all methods, shard by shard."""

    about: ScoresRecord

    def __init__(
        self, atlas: Atlas, objects: ObjectStore, about: ScoresRecord, parts: Sequence[Part], methods: tuple[str, ...]
    ) -> None:
        super().__init__(atlas, objects, about, "score")
        self.methods = methods
        self.parts = {part.shard: part for part in parts}

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def is_complete(self, commit: DerivedCommit) -> bool:
        return {*TRIVIAL, *self.methods} <= set(commit.items)

    def inputs(self, shards: Sequence[str]) -> list[Part]:
        return [self.parts[shard] for shard in shards]

    def shard_function(self) -> Callable[[ShardTask[Part]], ShardResult]:
        return partial(score_shard, self.about.target, self.methods)

    def add_up(self, commits: Mapping[str, DerivedCommit]) -> _Counts:
        """Return the counts of all shards together."""
        tallies: dict[str, Tally] = {}
        counts: Counter[str] = Counter()
        names = [counts_object(shard) for shard in self.shards]
        for shard, name, data in zip(self.shards, names, self.objects.read(names), strict=True):
            by_method = unpack(data, f"{self.objects.url}/{name}")
            for method in (*TRIVIAL, *self.methods):
                tallies[method] = tallies[method] + by_method[method] if method in tallies else by_method[method]
            counts.update(commits[shard].counts)
        return tallies, counts


class _TuningCounts(_ShardCounts[_Counts]):
    """Counts of the atlas that thresholds are tuned on, in a folder below the scores.

    Args:
        scores: output folder of the scores.
    """

    def __init__(
        self, atlas: Atlas, scores: ObjectStore, about: ScoresRecord, parts: Sequence[Part], methods: tuple[str, ...]
    ) -> None:
        super().__init__(atlas, ObjectStore(f"{scores.url}/{TUNING}"), about, parts, methods)
        self.scores = scores

    def remove_summary(self) -> None:
        _remove_tables(self.scores)

    def finish(self, commits: Mapping[str, DerivedCommit]) -> _Counts:
        return self.add_up(commits)


class _Scores(_ShardCounts[pa.Table]):
    def __init__(
        self,
        atlas: Atlas,
        objects: ObjectStore,
        about: ScoresRecord,
        parts: Sequence[Part],
        methods: tuple[str, ...],
        tuning: _TuningCounts | None,
        options: ComputeOptions,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(atlas, objects, about, parts, methods)
        self.tuning, self.options, self.say = tuning, options, say

    def check_output(self) -> None:
        """Refuse finished scores of something else; those of a part of the shards are continued."""
        objects, about, url = self.objects, self.about, self.objects.url
        finished = objects.exists(TABLE)
        may_differ = ("protocol", "tuning") if finished else tuple(ScoresRecord.model_fields)
        previous = check_output_dir(objects, ABOUT, about, may_differ)
        if finished and previous and _tuned_on(previous) != _tuned_on(about):
            raise UsageError(f"{url}: holds scores with another tuning split; name another --out, or remove it")

    def remove_summary(self) -> None:
        _remove_tables(self.objects)

    def finish(self, commits: Mapping[str, DerivedCommit]) -> pa.Table:
        tallies, counts = self.add_up(commits)
        if not tallies or not tallies[self.methods[0]].counts["images"][ALL].any():
            raise UsageError(f"{self.atlas.objects.url}: has no sample with maps and an object in {self.about.name}")
        if self.tuning is not None:
            apart, _ = self.tuning.finish(derive_shards(self.tuning, self.options))
            tallies = {name: tally + apart[name] for name, tally in tallies.items()}
        rows = [_row(self.atlas, self.about.target, name, tally, counts) for name, tally in tallies.items()]
        if not rows[0]["test_images"]:
            self.say("all pictures are in the tuning split, so nothing is left to test its thresholds on")
        rows.sort(key=lambda row: (-(row["pxap"] or 0), -row["maxboxacc_v2"]))
        table = pa.Table.from_pylist(rows, schema=LOCALIZATION)
        lines = curves(tallies)
        self.objects.put(CURVES, to_parquet(lines))
        self.objects.put(FIGURE, draw(table, lines))
        self.objects.put(TABLE, to_parquet(table))
        return table


def _tuned_on(about: ScoresRecord) -> tuple[str | None, str | None]:
    return about.tuning.truth, about.tuning.atlas


def _remove_tables(objects: ObjectStore) -> None:
    for name in (TABLE, CURVES, FIGURE):
        objects.delete(name)


def _about(
    atlas: Atlas,
    truth: TruthSet,
    target: TargetKind,
    subset: bool,
    tuning: TruthSet | None,
    other: Atlas | None,
    parts: Iterable[Part],
) -> ScoresRecord:
    keys = {key for part in parts for key in (*part.split, *(part.aside or ()))}
    tuned = TuningRecord(
        truth=tuning.digest if tuning else None,
        atlas=other.run.spec_hash if other else None,
        keys=sha256("\n".join(sorted(keys)).encode()),
    )
    return ScoresRecord(
        run=atlas.run.spec_hash, truth=truth.digest, name=truth.name, target=target, subset=subset, tuning=tuned
    )


def default_output_dir(url: str, truth: TruthSet, target: TargetKind) -> str:
    """Return the folder of scores for which none is named: ``scores/<truth>-<target>`` in the atlas at ``url``."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", truth.name).strip("-") or "truth"
    return f"{url.rstrip('/')}/{SCORES}/{name}-{target}"


def _row(atlas: Atlas, target: TargetKind, name: str, tally: Tally, counts: Mapping[str, int]) -> dict[str, Any]:
    model = atlas.run.model
    return {
        "method": name,
        "kind": "control" if is_control(name) else "method",
        "target": target,
        "classifier": f"{PurePath(model.name).name} {model.weights.removeprefix('sha256:')[:12]}",
        "without_maps": counts.get("without_maps", 0),
        "without_object": counts.get("without_object", 0),
        **row(name, target, tally),
    }
