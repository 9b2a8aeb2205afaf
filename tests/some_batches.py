"""A batch of a small network with maps of it, to be measured."""

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
TARGETS = np.array([[1, 1], [2, 7], [3, 0]])


def batch_of(model: nn.Module, names: Sequence[str], targets: np.ndarray = TARGETS, **changed: object) -> MetricBatch:
    """A batch of three images with maps of these methods, scaled to [0, 1]."""
    images, chosen = images_for(model), registry.resolve(names)
    half = torch.full((3, 1, 1), 0.5, dtype=torch.float64)
    found = explain(model, images, torch.from_numpy(targets), chosen, keys=KEYS)
    maps = {}
    for name, values in found.items():
        low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
        maps[name] = ((values - low) / (high - low)).nan_to_num(0).numpy()
    network = ExplainedModel(model, describe(model), half, half, {method.name: method for method in chosen}, 0)
    return replace(MetricBatch(network, images, KEYS, targets[:, 0], targets, maps), **changed)  # type: ignore[arg-type]


def figures(measure: Metric, batch: MetricBatch) -> dict[tuple[str, str], np.ndarray]:
    with preserve_model_state(batch.network.model):
        return {(value.method, value.figure): value.values for value in measure.of(batch)}
