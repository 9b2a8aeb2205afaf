"""Batches of a small model with its maps, for metrics."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from support import images_for, small_vit
from torch import Tensor, nn

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


class Linear(nn.Module):
    """Two classes; the probability of the first is linear in the mean of each patch."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.shown = 0
        self.copies: set[bytes] = set()

    def patches(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images.mean(1), 8).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        self.shown += len(images)
        self.copies |= {image.numpy().tobytes() for image in images}
        first = 0.5 + self.patches(images) @ self.weights
        return torch.stack([first, 1 - first], 1).log()


def linear_batch(maps: np.ndarray | None = None) -> tuple[Linear, MetricBatch]:
    """Three images, whose map is what each patch adds to the probability."""
    model = Linear(0.03 * torch.rand(36, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    vit = small_vit()
    images = images_for(vit).clamp(-1, 1)
    own = (model.patches(images) * model.weights).detach().numpy().reshape(3, 1, 6, 6)
    half = torch.full((3, 1, 1), 0.5, dtype=torch.float64)
    explained = ExplainedModel(model, describe(vit), half, half, {}, 0)
    zeros = np.zeros((3, 1), np.int64)
    return model, MetricBatch(explained, images, KEYS, zeros[:, 0], zeros, {"own": own if maps is None else maps})
