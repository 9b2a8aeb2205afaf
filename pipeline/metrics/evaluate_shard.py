"""Figures of a shard: its images, their maps from the atlas, questions to the network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.explain.model_state import preserve_model_state
from pipeline.metrics.explained_model import ExplainedModel
from pipeline.metrics.metric import Metric, MetricBatch, MetricValue
from pipeline.run.worker import Worker
from pipeline.store import AtlasShard
from pipeline.store.images import pictures
from schemas.metrics import METRIC_VALUES

_BATCH = 16
"""Images whose copies are remembered together; bounds memory."""


def evaluate_shard(
    worker: Worker,
    part: AtlasShard,
    ordinals: Sequence[int],
    measures: Sequence[Metric],
    methods: Sequence[str],
    seed: int = 0,
) -> pa.Table:
    """Measure the maps of some images of a shard: ``schemas.metrics.FIGURES``, in the order of the rows.

    Args:
        worker: of the atlas.
        ordinals: of samples that have maps.
        methods: names of maps.

    Raises:
        CorruptShardError: see ``pictures``.
    """
    known = {method.name: method for method in worker.explainer.methods}
    network = ExplainedModel(
        worker.model,
        worker.explainer.anatomy,
        worker.normalise.mean,
        worker.normalise.std,
        {name: known[name] for name in methods},
        worker.run.spec.seed,
    )
    targets = worker.run.spec.targets
    maps = {name: np.stack([part.maps(name, target) for target in targets], 1) for name in methods}
    samples = part.samples.to_pylist()
    tables = []
    with preserve_model_state(worker.model):
        for chosen, seen in pictures(worker.run, part, ordinals, _BATCH, worker.decoders):
            rows = [samples[ordinal] for ordinal in chosen]
            classes = {"label": "label", "predicted": "prediction"}
            pixels = torch.stack([torch.as_tensor(each) for each in seen])
            batch = MetricBatch(
                network,
                worker.normalise(pixels),
                tuple(row["key"] for row in rows),
                np.array([-1 if row["label"] is None else row["label"] for row in rows], np.int64),
                np.array([[row[classes[target]] for target in targets] for row in rows], np.int64),
                {name: each[chosen].astype(np.float64) for name, each in maps.items()},
                seed,
            )
            tables += [_table(rows, targets, value) for measure in measures for value in measure.of(batch)]
    found = pa.concat_tables(tables).unify_dictionaries() if tables else METRIC_VALUES.empty_table()
    return found.combine_chunks().sort_by("row")


def _table(rows: Sequence[dict[str, Any]], targets: Sequence[str], value: MetricValue) -> pa.Table:
    number, kinds = len(rows), len(targets)
    columns = {
        "row": np.repeat([row["row"] for row in rows], kinds),
        "key": np.repeat(np.array([row["key"] for row in rows], object), kinds),
        "method": [value.method] * number * kinds,
        "target": list(targets) * number,
        "metric": [value.figure] * number * kinds,
        "value": pa.array(value.values.ravel(), from_pandas=True),  # NaN becomes null
    }
    return pa.table(
        {name: pa.array(each).cast(METRIC_VALUES.field(name).type) for name, each in columns.items()}, METRIC_VALUES
    )
