"""Metrics of the samples of one shard."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.explain.model_state import preserve_model_state
from pipeline.metrics.explained_model import ExplainedModel
from pipeline.metrics.metric import Metric, MetricBatch, MetricValue
from pipeline.run.worker import Worker
from pipeline.store import ShardMaps
from pipeline.store.images import read_images
from pipeline.utils.shares import report_share
from schemas.metrics import METRIC_VALUES
from schemas.run import RunSpec
from schemas.samples import explained_class

_BATCH_SIZE = 16
"""Images whose masked forwards are cached together; bounds memory."""


def evaluate_shard(
    worker: Worker,
    shard: ShardMaps,
    ordinals: Sequence[int],
    metrics: Sequence[Metric],
    methods: Sequence[str],
    seed: int = 0,
) -> Iterator[pa.Table]:
    """Compute metrics for samples of a shard, in batches: yield tables as ``schemas.metrics.METRIC_VALUES``.

    Args:
        worker: worker of the atlas.
        shard: shard of the atlas.
        ordinals: samples that have maps.
        metrics: metrics to compute.
        methods: names of the maps.
        seed: seed of the metrics.

    Raises:
        CorruptShardError: see ``read_images``.
    """
    targets = class_targets(worker.run.spec)
    present = np.stack([shard.has_maps_of(target) for target in targets], 1)
    costs = [metric.cost(len(methods)).in_forwards for metric in metrics]
    report_share(0)
    for chunk, batch in iter_metric_batches(worker, shard, ordinals, methods, targets, seed):
        rows = shard.samples.select(["row", "key"]).take(chunk).to_pylist()
        for metric, cost in zip(metrics, costs, strict=True):
            for value in metric.compute(batch):
                values = np.where(present[chunk], value.values, np.nan)
                yield _to_table(rows, targets, value._replace(values=values))
            report_share(cost / sum(costs) * len(chunk) / len(ordinals))


def iter_metric_batches(
    worker: Worker,
    shard: ShardMaps,
    ordinals: Sequence[int],
    methods: Sequence[str],
    targets: Sequence[str],
    seed: int,
) -> Iterator[tuple[list[int], MetricBatch]]:
    """Yield samples of a shard with their images and maps, in batches. The state of the model is preserved.

    Args:
        worker: worker of the atlas.
        shard: shard of the atlas.
        ordinals: samples that have maps.
        methods: names of the maps.
        targets: target kinds of the maps; one that a sample lacks is replaced by one that it has.
        seed: seed of the metrics.

    Yields:
        Ordinals, and their images and maps.

    Raises:
        CorruptShardError: see ``read_images``.
    """
    model, all_targets = _explained_model(worker, tuple(methods)), worker.run.spec.target_names
    present = np.stack([shard.has_maps_of(target) for target in targets], 1)
    some = present.argmax(1)  # stands for a target that a sample lacks; its value is not kept
    places = np.where(present, np.arange(len(targets)), some[:, None])
    maps = {
        name: np.take_along_axis(
            np.stack([shard.maps(name, target) for target in targets], 1), places[:, :, None, None], 1
        )
        for name in methods
    }
    all_samples = shard.samples.to_pylist()
    with preserve_model_state(worker.model):
        for chunk, images in read_images(shard, ordinals, _BATCH_SIZE, worker.decoder):
            samples = [all_samples[ordinal] for ordinal in chunk]
            pixels = torch.stack([torch.as_tensor(image) for image in images])
            yield (
                chunk,
                MetricBatch(
                    model,
                    worker.normalize(pixels),
                    tuple(sample["key"] for sample in samples),
                    np.array([-1 if sample["label"] is None else sample["label"] for sample in samples], np.int64),
                    np.array(
                        [
                            [explained_class(sample, targets[place], all_targets)[0] for place in places[ordinal]]
                            for ordinal, sample in zip(chunk, samples, strict=True)
                        ]
                    ),
                    {name: values[chunk].astype(np.float64) for name, values in maps.items()},
                    seed,
                ),
            )


@lru_cache(1)
def _explained_model(worker: Worker, methods: tuple[str, ...]) -> ExplainedModel:
    """Return the model of a worker, which a process keeps for further shards, with what is prepared of it."""
    method_by_name = {method.name: method for method in worker.explainer.methods}
    return ExplainedModel(
        worker.model,
        worker.explainer.anatomy,
        worker.normalize.mean,
        worker.normalize.std,
        {name: method_by_name[name] for name in methods},
        worker.run.spec.seed,
    )


def class_targets(spec: RunSpec) -> tuple[str, ...]:
    """Return the targets whose maps metrics judge: not texts, which are no classes of the network."""
    return tuple(target for target in spec.target_names if target not in spec.text_targets)


def _to_table(samples: Sequence[dict[str, Any]], targets: Sequence[str], value: MetricValue) -> pa.Table:
    count, width = len(samples), len(targets)
    columns = {
        "row": np.repeat([sample["row"] for sample in samples], width),
        "key": np.repeat(np.array([sample["key"] for sample in samples], object), width),
        "method": [value.method] * count * width,
        "target": list(targets) * count,
        "metric": [value.metric] * count * width,
        "value": pa.array(value.values.ravel(), from_pandas=True),  # NaN becomes null
    }
    return pa.table(
        {name: pa.array(data).cast(METRIC_VALUES.field(name).type) for name, data in columns.items()}, METRIC_VALUES
    )
