"""Noise sensitivity: whether a map stays when the picture gets grainy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.metrics.metric import Directions, Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.similarity import similarity
from pipeline.utils.random import generator

SIGMAS = {"noisy_5": 0.05, "noisy_10": 0.1, "noisy_20": 0.2}
"""Standard deviation of the noise, in parts of the range of the normalised image."""


def noise(images: Tensor, sources: Sequence[np.random.Generator]) -> Tensor:
    """Normal noise with σ = max x − min x of each image x: [B, 3, H, W], as the images.

    Args:
        sources: one for each image, from which its noise is drawn.
    """
    drawn = np.stack([source.standard_normal(images.shape[1:]) for source in sources])
    spread = (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
    return spread * torch.from_numpy(drawn).to(images)


@dataclass(frozen=True)
class NoiseSensitivity(Metric):
    """Spearman's ρ between |map| and |map of the image with noise|, Gaussian with σ = s · (max x − min x).

    ``noisy_5``, ``noisy_10``, ``noisy_20`` – of s = 0.05, 0.1, 0.2: one noise from key and seed, scaled. Maps are raw,
    of the same class, which the noisy image may no longer show. 1 is a map that noise does not move; one that does not
    look at the picture has it too.

    The noise is that of Smilkov et al., SmoothGrad, 2017; that a map should bear it, Alvarez-Melis and Jaakkola, On the
    Robustness of Interpretability Methods, 2018.
    """

    figures: ClassVar[Directions] = dict.fromkeys(SIGMAS, "higher")

    def cost(self, methods: int, depth: int) -> MetricCost:
        return MetricCost(0, (1 + len(SIGMAS)) * methods)

    def of(self, batch: MetricBatch) -> Iterator[MetricValue]:
        methods = list(batch.maps)
        still = batch.network.explain(batch.images, batch.targets, batch.keys, methods)
        grain = noise(batch.images, [generator("faith noise sensitivity", key, batch.seed) for key in batch.keys])
        for figure, sigma in SIGMAS.items():
            moved = batch.network.explain(batch.images + sigma * grain, batch.targets, batch.keys, methods)
            for method in methods:
                yield MetricValue(method, figure, similarity(still[method].cpu().numpy(), moved[method].cpu().numpy()))
