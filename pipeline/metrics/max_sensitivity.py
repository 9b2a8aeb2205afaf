"""Sensitivity-max: how far a map moves when nothing to be seen changes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.metrics.metric import Directions, Metric, MetricBatch, MetricCost, MetricValue
from pipeline.utils.random import generator
from schemas.errors import UsageError


def change(maps: NDArray[np.floating], moved: NDArray[np.floating]) -> NDArray[np.float64]:
    """‖b − a‖₂ / ‖a‖₂ of maps a and b, [..., h, w]: float64 [...], NaN where a is 0 everywhere."""
    a, b = (each.reshape(*each.shape[:-2], -1).astype(np.float64) for each in (maps, moved))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.linalg.norm(b - a, axis=-1) / np.linalg.norm(a, axis=-1)
    return np.where(np.isfinite(ratio), ratio, np.nan)


@dataclass(frozen=True)
class Sensitivity(Metric):
    """``sensitivity_max`` – the largest change of the raw map, in parts of its norm, among noisy images.

    max_k ‖Φ(x + δ_k) − Φ(x)‖₂ / ‖Φ(x)‖₂, δ_k uniform in [−radius, radius] of the normalised image, drawn from key and
    seed. The key that random methods draw from is the image's own throughout.

    Source: Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019; captum makes 10 draws of this
    radius. More draws find larger changes: compare figures of the same number.

    Options:
        draws: noisy images.
        radius: largest size of the noise.
    """

    figures: ClassVar[Directions] = {"sensitivity_max": "lower"}

    draws: int = 5
    radius: float = 0.02

    def __post_init__(self) -> None:
        if self.draws < 1 or not self.radius > 0:
            raise UsageError(f"sensitivity: {self.draws} draws of radius {self.radius}; both must be above 0")

    def cost(self, methods: int, depth: int) -> MetricCost:
        return MetricCost(0, (self.draws + 1) * methods)

    def of(self, batch: MetricBatch) -> Iterator[MetricValue]:
        images, network = batch.images, batch.network
        sources = [generator("faith sensitivity", key, batch.seed) for key in batch.keys]
        still = network.explain(images, batch.targets, batch.keys, list(batch.maps))
        most = {method: np.zeros(batch.targets.shape) for method in batch.maps}
        for _ in range(self.draws):
            noise = np.stack([source.uniform(-self.radius, self.radius, images.shape[1:]) for source in sources])
            moved = network.explain(
                images + torch.from_numpy(noise).to(images), batch.targets, batch.keys, list(batch.maps)
            )
            for method, largest in most.items():
                most[method] = np.maximum(largest, change(still[method].cpu().numpy(), moved[method].cpu().numpy()))
        for method, largest in most.items():
            yield MetricValue(method, "sensitivity_max", largest)
