"""Batches of a small model with its maps, for metrics."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from support import images_for
from torch import nn

from pipeline.explain import describe, explain
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.registry import methods as registry
from pipeline.metrics.explained_model import ExplainedModel
from pipeline.metrics.metric import Metric, MetricBatch

KEYS = ("a", "b", "c")
CLASS_IDS = np.array([[1, 1], [2, 7], [3, 0]])


def make_batch(
    model: nn.Module, names: Sequence[str], class_ids: np.ndarray = CLASS_IDS, **changes: object
) -> MetricBatch:
    """Return a batch of three images with maps of these methods, scaled to [0, 1]."""
    images, methods = images_for(model), registry.resolve(names)
    half = torch.full((3, 1, 1), 0.5, dtype=torch.float64)
    raw = explain(model, images, torch.from_numpy(class_ids), methods, keys=KEYS)
    maps = {}
    for name, values in raw.items():
        low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
        maps[name] = ((values - low) / (high - low)).nan_to_num(0).numpy()
    explained = ExplainedModel(model, describe(model), half, half, {method.name: method for method in methods}, 0)
    return replace(MetricBatch(explained, images, KEYS, class_ids[:, 0], class_ids, maps), **changes)  # type: ignore[arg-type]


def compute(metric: Metric, batch: MetricBatch) -> dict[tuple[str, str], np.ndarray]:
    """Return the values of a metric by method and name."""
    with preserve_model_state(batch.model.model):
        return {(value.method, value.metric): value.values for value in metric.compute(batch)}
