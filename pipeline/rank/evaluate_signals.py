"""Values of all signals, shard by shard, on images drawn from an atlas."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.metrics.evaluate_shard import iter_metric_batches
from pipeline.metrics.sample_selection import select_samples
from pipeline.metrics.selected_values import Ordinals, SelectedValues, write_values
from pipeline.rank.registry import SIGNALS
from pipeline.rank.signal import NOT_TRIED
from pipeline.run.derive import ShardResult, ShardTask, derive
from pipeline.run.execution import ComputeOptions, Device
from pipeline.run.recompute_maps import cached_worker
from pipeline.run.worker import Worker
from pipeline.store import Atlas, ObjectStore, ShardMaps
from pipeline.store.derived import ProductStore
from pipeline.utils.shares import report_share
from schemas.commits import DerivedCommit
from schemas.errors import UsageError
from schemas.rank import SIGNAL_VALUES, SignalsSpec

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
        "signals",
        function,
        atlas,
        ObjectStore(out),
        about=about,
        methods=about.methods,
        samples=samples,
        costs={signal.name: signal.cost(len(methods)) for signal in SIGNALS},
        log=log,
    )
    return derive(product, options)


@dataclass(frozen=True, kw_only=True)
class _SignalValues(SelectedValues[Atlas]):
    may_differ = ("version", "methods", "images", "seed", "signals")
    about: SignalsSpec

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> pa.Table:
        return pa.concat_tables(self.read_values(objects)).unify_dictionaries().combine_chunks()


def _evaluate_shard(device: Device, about: SignalsSpec, task: ShardTask[Atlas, Ordinals]) -> ShardResult:
    atlas = task.source
    worker = cached_worker(atlas.locate(task.shard), device)
    return write_values(task, _iter_values(worker, atlas.shard(task.shard), task.data, about), SIGNAL_VALUES)


def _iter_values(worker: Worker, shard: ShardMaps, ordinals: Ordinals, about: SignalsSpec) -> Iterator[pa.Table]:
    signals = [signal for signal in SIGNALS if signal.is_defined(worker.explainer.anatomy)]
    costs = [1 + signal.cost(len(about.methods)).in_forwards for signal in signals]
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
                yield _to_table(columns)
            report_share(cost / sum(costs) * len(chunk) / len(ordinals))


def _to_table(columns: Mapping[str, Any]) -> pa.Table:
    types = {field.name: field.type for field in SIGNAL_VALUES}
    arrays = {name: data if isinstance(data, _ARROW) else pa.array(data) for name, data in columns.items()}
    return pa.table({name: data.cast(types[name]) for name, data in arrays.items()}, SIGNAL_VALUES)
