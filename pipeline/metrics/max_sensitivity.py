"""Sensitivity-max: the largest change of a map under small noise."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.metrics.metric import Metric, MetricBatch, MetricCost, MetricValue
from pipeline.utils.random import rng_for
from schemas.errors import UsageError
from schemas.metrics import DIRECTIONS, Directions


def relative_change(maps: NDArray[np.floating], changed: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return ‖b − a‖₂ / ‖a‖₂: float64 [...], NaN where a is 0 everywhere.

    Args:
        maps: a, [..., h, w].
        changed: b, [..., h, w].
    """
    a, b = (values.reshape(*values.shape[:-2], -1).astype(np.float64) for values in (maps, changed))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.linalg.norm(b - a, axis=-1) / np.linalg.norm(a, axis=-1)
    return np.where(np.isfinite(ratio), ratio, np.nan)


@dataclass(frozen=True)
class MaxSensitivity(Metric):
    """``sensitivity_max`` – the largest relative change of the raw map among noisy images.

    max_k ‖Φ(x + δ_k) − Φ(x)‖₂ / ‖Φ(x)‖₂, δ_k uniform in [−radius, radius] of the normalized image, from key and seed.
    Methods that sample use the same key for all of them.

    Source: Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019; captum takes 10 samples of
    this radius. More samples find larger changes: compare only values of the same number of samples.

    Options:
        samples: number of noisy images.
        radius: largest size of the noise.
    """

    directions: ClassVar[Directions] = DIRECTIONS["max_sensitivity"]

    samples: int = 5
    radius: float = 0.02

    def __post_init__(self) -> None:
        if self.samples < 1 or not self.radius > 0:
            raise UsageError(f"max_sensitivity: {self.samples} samples of radius {self.radius}; both must be above 0")

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(0, (self.samples + 1) * methods)

    def compute(self, batch: MetricBatch) -> Iterator[MetricValue]:
        images, model, methods = batch.images, batch.model, list(batch.maps)
        generators = [rng_for("faith sensitivity", key, batch.seed) for key in batch.keys]
        largest = {method: np.zeros(batch.class_ids.shape) for method in methods}
        noises = (
            np.stack([rng.uniform(-self.radius, self.radius, images.shape[1:]) for rng in generators])
            for _ in range(self.samples)
        )
        noisy = (images + torch.from_numpy(noise).to(images) for noise in noises)
        for changed in model.explain_copies(noisy, batch.class_ids, batch.keys, methods):
            for method in methods:
                change = relative_change(batch.raw_maps[method].cpu().numpy(), changed[method].cpu().numpy())
                largest[method] = np.maximum(largest[method], change)
        for method in methods:
            yield MetricValue(method, "sensitivity_max", largest[method])
