"""Values of all signals, shard by shard, on images drawn from an atlas."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.metrics.evaluate_shard import iter_metric_batches
from pipeline.metrics.metric import MetricCost
from pipeline.metrics.sample_selection import SelectedSamples, select_samples
from pipeline.rank.registry import SIGNALS
from pipeline.rank.signal import NOT_TRIED
from pipeline.run.derive import DerivedProduct, ShardResult, ShardTask, derive
from pipeline.run.execution import ComputeOptions, Device
from pipeline.run.recompute_maps import cached_worker
from pipeline.store import Atlas, ObjectStore
from pipeline.store.derived import ProductStore
from pipeline.store.parquet import from_parquet, to_parquet
from pipeline.utils.progress import format_time
from pipeline.utils.shares import report_share
from schemas.base import sha256
from schemas.commits import DerivedCommit
from schemas.errors import UsageError
from schemas.rank import SIGNAL_VALUES, SignalsSpec

Ordinals = tuple[int, ...]
"""Selected samples of a shard."""
_ARROW = (pa.Array, pa.ChunkedArray)


def evaluate_signals(
    atlas: Atlas,
    out: str,
    target: str,
    methods: Sequence[str],
    images: int,
    seed: int,
    options: ComputeOptions,
    log: Callable[[str], None],
) -> pa.Table:
    """Compute the signals of randomly selected images of the finished shards. What exists already is not made again.

    Args:
        atlas: atlas with the maps.
        out: output folder or URL.
        target: target kind of the maps.
        methods: names of methods.
        images: largest number of images.
        seed: of the selection and of all random choices of the signals.
        options: where it is computed; may shell commands be run to read images.
        log: called with the cost before anything is computed.

    Returns:
        ``schemas.rank.SIGNAL_VALUES``.

    Raises:
        UsageError: no sample has maps of the target, or ``out`` holds something else.
        CorruptShardError: a shard cannot be read, or its images are not those that the atlas has maps of.
        SpecMismatchError: the network has changed.
    """
    samples = select_samples(atlas, images, seed, target)
    if not samples:
        raise UsageError(f"{atlas.objects.url}: has no sample with maps of {target}")
    about = SignalsSpec(
        run=atlas.run.run_hash,
        target=target,
        methods=tuple(methods),
        images=images,
        seed=seed,
        signals=tuple(signal.name for signal in SIGNALS),
    )
    function = partial(_evaluate_shard, options.device, about)
    product = _SignalValues(
        "signals", function, atlas, ObjectStore(out), about=about, methods=about.methods, samples=samples, log=log
    )
    return derive(product, options)


@dataclass(frozen=True, kw_only=True)
class _SignalValues(DerivedProduct[Atlas, Ordinals, pa.Table]):
    may_differ = ("version", "methods", "images", "seed", "signals")
    about: SignalsSpec
    uses_gpu: bool = True
    samples: SelectedSamples
    log: Callable[[str], None]

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(self.samples)

    def is_complete(self, commit: DerivedCommit) -> bool:
        return commit.items == _items(self.samples[commit.shard])

    def inputs(self, shards: Sequence[str]) -> list[Ordinals]:
        ordinals = [self.samples[shard] for shard in shards]
        if count := sum(map(len, ordinals)):
            cost = sum((signal.cost(len(self.about.methods)) for signal in SIGNALS), MetricCost())
            processes = min(len(shards), os.cpu_count() or 1)
            seconds = count * _image_seconds(self.source, self.about.methods, cost) / processes
            self.log(
                f"signals: {count} images, at most {cost * count}; about {format_time(seconds)} in {processes} "
                "processes, by the times of the run"
            )
        return ordinals

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> pa.Table:
        tables = map(from_parquet, objects.read([_values_object(shard) for shard in self.shards]))
        return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _image_seconds(atlas: Atlas, methods: Sequence[str], cost: MetricCost) -> float:
    """Return how long one image takes, by the times in the commits of the first shard of the run and its parts."""
    shard = atlas.shard(atlas.shard_names[0])
    forward, maps = 0.0, 0.0
    for commit in {id(commit): commit for commit in map(shard.commit_of, methods)}.values():
        images = max(1, commit.ok)
        forward = max(forward, commit.seconds.get("forward", 0.0) / images)
        maps += sum(commit.seconds.get(method, 0.0) for method in methods) / images
    explanations = cost.explanations / len(methods)
    return cost.forwards * forward + explanations * (forward + maps)


def _items(ordinals: Ordinals) -> tuple[str]:
    """Return the hash of the selected samples of a shard, for its commit."""
    return (sha256(" ".join(map(str, ordinals)).encode()),)


def _values_object(shard: str) -> str:
    return f"values/{shard}.parquet"


def _evaluate_shard(device: Device, about: SignalsSpec, task: ShardTask[Atlas, Ordinals]) -> ShardResult:
    atlas, ordinals = task.source, task.data
    worker = cached_worker(atlas.locate(task.shard), device)
    shard = atlas.shard(task.shard)
    signals = [signal for signal in SIGNALS if signal.is_defined(worker.explainer.anatomy)]
    costs = [1 + signal.cost(len(about.methods)).in_forwards for signal in signals]
    tables: list[pa.Table] = []
    report_share(0)
    for chunk, batch in iter_metric_batches(worker, shard, ordinals, about.methods, [about.target], about.seed):
        rows = shard.samples["row"].take(chunk)
        for signal, cost in zip(signals, costs, strict=True):
            for method, values, seen in signal.compute(batch):
                columns = {
                    "row": rows,
                    "class_id": batch.class_ids[:, 0],
                    "method": [method] * len(rows),
                    "signal": [signal.name] * len(rows),
                    "value": pa.array(values, from_pandas=True),  # NaN becomes null
                    "seen": [None] * len(rows) if seen is None else pa.array(seen, mask=seen == NOT_TRIED),
                }
                tables.append(_to_table(columns))
            report_share(cost / sum(costs) * len(chunk) / len(ordinals))
    values_table = pa.concat_tables(tables).unify_dictionaries().combine_chunks().sort_by("row")
    written = task.objects.put(_values_object(task.shard), to_parquet(values_table))
    return ShardResult((written,), {"images": len(ordinals)}, _items(ordinals))


def _to_table(columns: Mapping[str, Any]) -> pa.Table:
    types = {field.name: field.type for field in SIGNAL_VALUES}
    arrays = {name: data if isinstance(data, _ARROW) else pa.array(data) for name, data in columns.items()}
    return pa.table({name: data.cast(types[name]) for name, data in arrays.items()}, SIGNAL_VALUES)
