"""Faithfulness or sanity of a whole atlas: some of its images, measured shard by shard."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import get_args

import pyarrow as pa

from pipeline.explain.load import load
from pipeline.metrics.evaluate_shard import evaluate_shard
from pipeline.metrics.metric import Metric, MetricCost
from pipeline.metrics.registry import SUITES
from pipeline.metrics.sample_selection import SelectedSamples, select_samples
from pipeline.metrics.summary import summarize
from pipeline.run.execution import Device
from pipeline.run.parallel_map import parallel_map
from pipeline.run.recompute import worker_of
from pipeline.store import Atlas, Lease, ObjectStore
from pipeline.store.derived import check_output_dir, content_hash, load_completed, remove_stale
from pipeline.store.parquet import from_parquet, to_parquet
from pipeline.utils.io import refuse_commands
from schemas.base import sha256
from schemas.commits import DerivedCommit
from schemas.errors import UsageError
from schemas.layout import ABOUT, commit_object
from schemas.metrics import OWN_WEIGHTS, MetricsRecord, MetricSuite

SUMMARY = "summary.parquet"
IMAGES: dict[MetricSuite, int] = {"faithfulness": 1000, "sanity": 100}
"""How many are drawn where nobody says; a sanity check makes maps of a network many times over."""


def evaluate_metrics(
    url: str,
    out: str,
    kind: MetricSuite,
    methods: Sequence[str] = (),
    images: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    address: str | None = None,
    allow_pipe: bool = False,
    say: Callable[[str], None] = lambda line: None,
    measures: Mapping[str, Metric] | None = None,
) -> pa.Table:
    """Measure the maps of images that are drawn at random from the finished shards. What is done is not done again.

    Writes ``about.json``; for each shard of which images are drawn ``values/<shard>.parquet`` and ``commits/<shard>.json``;
    then ``summary.parquet``. Columns are in ``schemas.metrics``. When the atlas has grown, the same call draws from all
    of it, and measures those shards again of which other images are drawn now; see ``select_samples``.

    Args:
        url: of the atlas.
        out: folder or URL.
        methods: names of maps; empty is all.
        images: how many, at most; None is that of ``IMAGES``.
        seed: of the draw, and of all that measures draw.
        address: of a Ray cluster, see ``parallel_map``.
        say: told what it will cost, before anything is computed.
        measures: by name, with their options; None is all of the kind.

    Returns:
        The summary, ``schemas.metrics.SUMMARY``.

    Raises:
        UsageError: no such kind or method, nothing to measure by, no image to measure, or ``out`` holds figures of
            something else.
        CorruptShardError: a shard cannot be read, or its pictures are not those that the atlas has maps of.
        SpecMismatchError: the network is another now.
    """
    if kind not in get_args(MetricSuite):
        raise UsageError(f"there is no kind {kind!r} of measures; there are {', '.join(get_args(MetricSuite))}")
    atlas, number = Atlas.open(url), IMAGES[kind] if images is None else images
    refuse_commands((shard.url for shard in atlas.run.shards), allow_pipe)
    chosen, by = tuple(dict.fromkeys(methods)) or atlas.methods, SUITES[kind] if measures is None else measures
    for target in atlas.run.spec.targets:
        atlas.require(target, chosen)
    if not by:
        raise UsageError("there is nothing to measure by; name at least one measure")
    if number < 1:
        raise UsageError(f"there is nothing to measure of {number} images; draw at least one")
    drawn = select_samples(atlas, number, seed)
    if not drawn:
        raise UsageError(f"{url}: has no sample with maps yet; run it first: vitatlas run {url}")
    about = MetricsRecord(
        run=atlas.run.spec_hash,
        kind=kind,
        methods=chosen,
        images=number,
        seed=seed,
        metrics={name: asdict(measure) for name, measure in by.items()},
    )
    objects = ObjectStore(out)
    check_output_dir(objects, ABOUT, about)
    with Lease(objects):
        objects.put(ABOUT, about.to_bytes())
        remove_stale(objects, atlas, drawn)
        pending = _pending(objects, atlas, about, drawn)
        if pending:
            objects.delete(SUMMARY)  # it counts no more once a shard is made anew
            left = sum(len(ordinals) for ordinals in pending.values())
            say(f"{kind}: {left} images, at most {cost(atlas, by, len(chosen)) * left}")
        work = partial(_of_shard, url, device, tuple(by.values()), about, out)
        for _ in parallel_map(work, list(pending.items()), f"measure {kind}", address, gpu=True):
            continue
        better = {figure: direction for each in by.values() for figure, direction in each.directions.items()}
        found = objects.read([_figures(shard_name) for shard_name in drawn])
        summary = summarize((from_parquet(data) for data in found), better, _notes(atlas, by))
        objects.put(SUMMARY, to_parquet(summary))
        objects.sweep()
    return summary


def cost(atlas: Atlas, measures: Mapping[str, Metric], methods: int) -> MetricCost:
    """Of one image, at most.

    Raises:
        UsageError: the network cannot be loaded.
    """
    depth = load(atlas.run.spec.model).anatomy.depth
    each = sum((measure.cost(methods, depth) for measure in measures.values()), MetricCost())
    return each * len(atlas.run.spec.targets)


def _notes(atlas: Atlas, measures: Mapping[str, Metric]) -> dict[tuple[str, str], str]:
    """What to know of figures of methods with weights of their own, by method and figure."""
    forgetting = [figure for measure in measures.values() if measure.randomizes for figure in measure.directions]
    return {(method, figure): OWN_WEIGHTS for method in atlas.run.artifacts for figure in forgetting}


def _pending(objects: ObjectStore, atlas: Atlas, about: MetricsRecord, drawn: SelectedSamples) -> SelectedSamples:
    """Shards that are to be measured: never done, made again since, or drawn otherwise."""
    records = load_completed(objects, atlas, about.digest())
    there = {shard: record.items for shard, record in records.items()}
    return {shard: ordinals for shard, ordinals in drawn.items() if there.get(shard) != _parts(ordinals)}


def _parts(ordinals: Sequence[int]) -> tuple[str]:
    """Which part of a shard is measured, for its record."""
    return (sha256(" ".join(map(str, ordinals)).encode()),)


def _figures(shard: str) -> str:
    return f"values/{shard}.parquet"


def _of_shard(
    url: str,
    device: Device,
    measures: Sequence[Metric],
    about: MetricsRecord,
    out: str,
    item: tuple[str, tuple[int, ...]],
) -> DerivedCommit:
    shard, ordinals = item
    atlas, objects = Atlas.open(url), ObjectStore(out)
    part = atlas.shard(shard)
    figures = evaluate_shard(worker_of(url, device, about.run), part, ordinals, measures, about.methods, about.seed)
    objects.delete(commit_object(shard))
    written = objects.put(_figures(shard), to_parquet(figures))
    record = DerivedCommit(
        shard=shard,
        parent=content_hash(part.commit),
        settings_hash=about.digest(),
        items=_parts(ordinals),
        counts={"images": len(ordinals)},
        objects=(written,),
    )
    objects.put(commit_object(shard), record.to_bytes())
    return record
